"""What Prometheus is told of a project is what its runs wrote themselves, and what it judges by is what the exporter exports."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from flows.server import free_port
from flows.upkeep.journals import Run
from gpt import paths
from gpt.locks import try_lock
from gpt.params.project import load_params
from gpt.registry.promotion import promote
from gpt.serving.api.metrics import Metrics
from gpt.tracking.journal import Journal
from gpt.tracking.spool import read_events
from gpt.training.checkpoints import checkpoint as checkpoints
from infra.metrics.__main__ import PORT
from infra.metrics.checkpoints import _MANIFEST, _STEP
from infra.metrics.exporter import Exporter
from infra.metrics.gpu import Gpu, Gpus
from infra.metrics.page import FAMILIES
from infra.metrics.servers import Servers
from tests import ROOT
from tests.registry.conftest import built, change_params, register_model
from tests.serving.live import running_server
from tests.training.conftest import make_project

__all__ = ["built", "make_project"]

FOLDER = ROOT / "infra/monitoring"
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))
RULES = [rule for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
PATIENCE_SECONDS = 120
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="Prometheus is not installed")


def expressions() -> list[str]:
    """All that rules and dashboard ask Prometheus for, the dashboard's variables filled in."""
    targets = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
    asked = [rule["expr"] for rule in RULES] + targets + [DASHBOARD["annotations"]["list"][0]["expr"]]
    return [re.sub(r"\$(instance|run)", ".*", each) for each in asked]


def read(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scrape(exporter: Exporter) -> Samples:
    registry = CollectorRegistry()
    registry.register(exporter)
    return read(generate_latest(registry).decode())


def value(samples: Samples, name: str, **labels: str) -> float | None:
    """The value of the only sample of a name that has these labels, None if there is none."""
    found = [each for (one, own), each in samples.items() if one == name and labels.items() <= dict(own).items()]
    assert len(found) <= 1, (name, labels)
    return found[0] if found else None


def state(samples: Samples, run: str) -> str:
    (found,) = [
        dict(own)["state"]
        for (name, own), each in samples.items()
        if name == "gpt_training_state" and each and ("run", run) in own
    ]
    return found


@contextmanager
def exporting(folder: Path, **variables: str) -> Iterator[str]:
    """Run `python -m infra.metrics` in a folder until the end of the block, and yield its address."""
    environment = {
        key: each for key, each in os.environ.items() if key not in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL")
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "infra.metrics", "--port", "0"],
        cwd=folder, env=environment | {"PYTHONPATH": str(ROOT)} | variables, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        address = re.match(r"http://\S+", process.stdout.readline())
        assert address is not None
        yield address[0]
    finally:
        process.terminate()
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert output == "stopped\n"


def get(address: str) -> str:
    with urllib.request.urlopen(address, timeout=30) as answer:
        return answer.read().decode()


def wait_for(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def fail_to_export(folder: Path, *arguments: str) -> str:
    """Return the one line that the exporter ends with."""
    done = subprocess.run(
        [sys.executable, "-m", "infra.metrics", *arguments],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    return line


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in which nothing has run, and which is the current folder."""
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tell_of(journal: Journal, settings: Mapping[str, int], rows: Mapping[int, float]) -> None:
    """Let a run begin and tell rows of training: loss by step."""
    journal.append("start", experiment="a study", run=journal.run, fingerprint=f"of-{journal.run}")
    journal.append("params", values={f"train.{key}": each for key, each in settings.items()})
    journal.append("tags", values={"resumed_at_step": 0})
    for step, loss in rows.items():
        system = {"system/tokens_per_second": 1000.0, "system/peak_memory_megabytes": 300.0}
        journal.append_metrics("train", step, {"train/loss": loss, "train/learning_rate": 1e-3} | system)


def train(folder: Path) -> "subprocess.Popen[bytes]":
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "gpt", "pretrain"], cwd=folder, env=environment, stdout=subprocess.DEVNULL
    )


def test_what_rules_and_dashboard_ask_for_is_exported() -> None:
    serving = {family.name for family in text_string_to_metric_families(Metrics(float, float, float).read().decode())}
    counted = {name for name, family in FAMILIES.items() if family.kind == "counter"}
    exported = {*FAMILIES, *(f"{name}_total" for name in {*counted, *serving}), *(f"{name}_bucket" for name in serving)}
    exported = (exported | serving) - counted
    asked = {name for text in expressions() for name in re.findall(r"\bgpt_\w+", text)}
    variables = {
        name for each in DASHBOARD["templating"]["list"] for name in re.findall(r"\bgpt_\w+", str(each["query"]))
    }
    assert asked | variables <= exported
    unused = FAMILIES.keys() - {name.removesuffix("_total") for name in asked}
    assert unused == {"gpt_training_validation_step", "gpt_checkpoints", "gpt_gpu_temperature_celsius"}


def test_every_alert_says_how_bad_it_is_and_leads_to_what_to_do() -> None:
    page = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^#+ (.+)\n\n(.+)", page, re.MULTILINE))
    names = [rule["alert"] for rule in RULES]
    assert len(set(names)) == len(names)
    for rule in RULES:
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"].endswith(".")
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"
        assert len(sections[rule["alert"]]) > 80, "what it means and what to do"
    assert {name for name in sections if name in names} == set(names)


def test_the_dashboard_is_one_that_grafana_reads() -> None:
    assert DASHBOARD["uid"]
    assert DASHBOARD["title"]
    assert DASHBOARD["schemaVersion"] >= 36
    source, *others = DASHBOARD["templating"]["list"]
    assert (source["type"], source["query"]) == ("datasource", "prometheus")
    of_source = {"type": "prometheus", "uid": f"${{{source['name']}}}"}
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24, "Grafana's width"
        assert not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] != "row":
            assert panel["targets"]
            assert panel["datasource"] == of_source
            assert all(target["datasource"] == of_source and target["expr"] for target in panel["targets"])
            assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    known = {f"${each['name']}" for each in others}
    for panel in panels:
        for target in panel.get("targets", []):
            assert set(re.findall(r"\$\w+", target["expr"])) <= known


@needs_promtool
def test_promtool_finds_rules_configuration_and_names_sound_and_rules_do_what_they_are_for(project: Path) -> None:
    for command in ("check rules alerts.yml", "test rules alerts_test.yml", "check config prometheus.yml"):
        done = subprocess.run(["promtool", *command.split()], cwd=FOLDER, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "FAILED" not in done.stdout
    tell_of(Journal(paths.SPOOL, "a-run"), {"max_steps": 100}, {10: 3.0})
    registry = CollectorRegistry()
    registry.register(Exporter(Servers()))
    texts = [generate_latest(registry), Metrics(float, float, float).read()]
    every = "".join(
        f"# HELP {name}{'_total' * (about.kind == 'counter')} {about.text}\n# TYPE {name}{'_total' * (about.kind == 'counter')}"
        f" {about.kind}\n{name}{'_total' * (about.kind == 'counter')} 1\n"
        for name, about in FAMILIES.items()
    )
    for text in (*texts, every.encode()):
        done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_compose_gives_prometheus_and_grafana_what_their_files_name() -> None:
    compose = yaml.safe_load((ROOT / "infra/compose.yaml").read_text(encoding="utf-8"))
    services = compose["services"]
    asked = yaml.safe_load(compose["configs"]["prometheus"]["content"])
    alone = yaml.safe_load((FOLDER / "prometheus.yml").read_text(encoding="utf-8"))
    assert asked["rule_files"] == alone["rule_files"] == ["alerts.yml"]
    assert asked["scrape_configs"][0]["job_name"] == alone["scrape_configs"][0]["job_name"]
    (target,) = asked["scrape_configs"][0]["static_configs"][0]["targets"]
    assert target == f"metrics:{PORT}"
    assert alone["scrape_configs"][0]["static_configs"][0]["targets"] == [f"127.0.0.1:{PORT}"]
    assert f":{PORT}/" in services["metrics"]["healthcheck"]["test"][-1]
    for name in ("metrics", "prometheus", "grafana"):
        assert services[name]["profiles"] == ["monitoring"]
        assert (services[name]["cap_drop"], services[name]["security_opt"]) == (["ALL"], ["no-new-privileges:true"])
    mounts = [mount for name in ("prometheus", "grafana") for mount in services[name]["volumes"] if mount[0] == "."]
    assert len(mounts) == 2
    assert all((ROOT / "infra" / mount.split(":")[0]).exists() for mount in mounts)
    variables = services["grafana"]["environment"]
    provisioned = [yaml.safe_load(path.read_text()) for path in sorted((FOLDER / "provisioning").rglob("*.yml"))]
    boards, sources = provisioned[0]["providers"], provisioned[1]["datasources"]
    assert variables[boards[0]["options"]["path"].removeprefix("$")] == "/etc/gpt"
    assert variables[sources[0]["url"].removeprefix("$")] == "http://prometheus:9090"
    assert sources[0]["type"] == DASHBOARD["templating"]["list"][0]["query"]


def test_alerts_have_a_test_each() -> None:
    tests = (FOLDER / "alerts_test.yml").read_text(encoding="utf-8")
    assert [rule["alert"] for rule in RULES if rule["alert"] not in tests] == []


def test_a_run_is_told_of_from_its_first_row_to_its_end(project: Path) -> None:
    exporter = Exporter(Servers())
    assert value(scrape(exporter), "gpt_training_step") is None
    journal = Journal(paths.SPOOL, "a-run")
    folder = Path("checkpoints/of-a-run")
    with try_lock(folder / "lock") or pytest.fail("nobody else has it"):
        tell_of(journal, {"max_steps": 100, "checkpoint_interval": 50}, {10: 3.0, 20: 2.5})
        journal.append_metrics("validation", 20, {"validation/loss": 2.6, "validation/bits_per_byte": 1.9})
        told = scrape(exporter)
        assert state(told, "a-run") == "running"
        assert value(told, "gpt_trainers") == 1
        expected = {
            "gpt_training_step": 20, "gpt_training_max_steps": 100, "gpt_training_loss": 2.5,
            "gpt_training_learning_rate": 1e-3, "gpt_training_tokens_per_second": 1000,
            "gpt_training_peak_memory_bytes": 300e6, "gpt_training_validation_loss": 2.6,
            "gpt_training_validation_bpb": 1.9, "gpt_training_validation_step": 20,
            "gpt_training_skipped_steps_total": 0, "gpt_training_rollbacks_total": 0, "gpt_training_repeated_steps": 0,
            "gpt_checkpoints": 0, "gpt_checkpoint_step": 0, "gpt_checkpoint_interval_steps": 50,
        }  # fmt: skip
        assert {name: value(told, name, experiment="a study", run="a-run") for name in expected} == expected
        assert value(told, "gpt_training_mfu_ratio") is None, "not known is not 0"
        assert value(told, "gpt_spool_undelivered_bytes") == Path("spool/a-run.jsonl").stat().st_size
        journal.append_metrics("train", 30, {"train/loss": 2.2, "train/skipped_steps": 2, "train/rollbacks": 1})
        told = scrape(exporter)
        assert value(told, "gpt_training_skipped_steps_total") == 2
        assert value(told, "gpt_training_rollbacks_total") == 1
    told = scrape(exporter)
    assert state(told, "a-run") == "dead"
    assert value(told, "gpt_trainers") == 0
    for status, name in (("KILLED", "stopped"), ("FAILED", "failed"), ("FINISHED", "finished")):
        journal.append("end", status=status)
        assert state(scrape(exporter), "a-run") == name
    Path("spool/a-run.jsonl").unlink()  # delivered
    assert value(scrape(exporter), "gpt_training_step") is None


def test_a_run_that_goes_on_is_given_the_time_to_repeat_what_it_told_and_to_read_its_data(project: Path) -> None:
    journal = Journal(paths.SPOOL, "a-run")
    tell_of(journal, {}, {10: 3.0, 900: 2.5})
    text = Path("spool/a-run.jsonl").read_text()
    hours_ago = re.sub(r'"time_ms": (\d+)', lambda match: f'"time_ms": {int(match[1]) - 7_200_000}', text)
    Path("spool/a-run.jsonl").write_text(hours_ago)
    exporter = Exporter(Servers())
    assert (value(scrape(exporter), "gpt_training_last_step_age_seconds") or 0) > 7000
    with try_lock(Path("checkpoints/of-a-run/lock")) or pytest.fail("nobody else has it"):
        assert (value(scrape(exporter), "gpt_training_last_step_age_seconds") or 0) < 100, "it reads its data"
        journal.append("resume")
        journal.append("tags", values={"resumed_at_step": 300})
        told = scrape(exporter)
        assert value(told, "gpt_training_repeated_steps") == 600
        assert (value(told, "gpt_training_longest_silence_seconds") or 0) < 100, "while nothing ran, nothing was silent"
        journal.append_metrics("train", 910, {"train/loss": 2.0})
        assert value(scrape(exporter), "gpt_training_repeated_steps") == 0


def test_of_many_runs_those_that_live_are_told_and_the_last(project: Path) -> None:
    for number in range(8):
        tell_of(Journal(paths.SPOOL, f"run-{number}"), {}, {10: float(number)})
    exporter = Exporter(Servers())
    with try_lock(Path("checkpoints/of-run-3/lock")) or pytest.fail("nobody else has it"):
        told = scrape(exporter)
        runs = {dict(own)["run"] for name, own in told if name == "gpt_training_step"}
        assert runs == {"run-3", "run-7"}
        assert (state(told, "run-3"), state(told, "run-7")) == ("running", "dead")


def test_only_what_was_appended_is_read(project: Path) -> None:
    """What was read before may have become anything else meanwhile."""
    journal = Journal(paths.SPOOL, "a-run")
    tell_of(journal, {"max_steps": 3000}, {step: 1 / step for step in range(1, 2001)})
    exporter = Exporter(Servers())
    file = Path("spool/a-run.jsonl")
    size = file.stat().st_size
    with file.open("r+b") as head:
        head.write(b"x" * (size - 1))
    journal.append_metrics("train", 2001, {"train/loss": 7.0})
    told = scrape(exporter)
    assert value(told, "gpt_training_loss", experiment="a study") == 7.0
    assert value(told, "gpt_training_max_steps") == 3000
    file.write_bytes(file.read_bytes()[size:])  # shorter than what was read: another journal
    assert value(scrape(exporter), "gpt_training_loss") is None, "and this one has no beginning"


def test_checkpoints_are_told_by_the_names_that_training_gives_them(project: Path) -> None:
    assert checkpoints.MANIFEST == _MANIFEST
    assert checkpoints.name_of(5).startswith(_STEP)
    run = Run("a-run", fingerprint="of-a-run")
    with checkpoints.single_trainer(run.checkpoints):
        assert checkpoints.holder(run.checkpoints)
        assert try_lock(run.lock) is None


def test_what_cannot_be_read_is_counted_and_costs_nothing_else(project: Path) -> None:
    journal = Journal(paths.SPOOL, "a-run")
    tell_of(journal, {}, {10: 3.0})
    exporter = Exporter(Servers())
    assert value(scrape(exporter), "gpt_exporter_failures_total", part="runs") == 0
    with Path("spool/a-run.jsonl").open("a") as file:
        file.write(
            '{"kind": "metrics", "step": "many", "values": {"train/loss": "low"}, "time_ms": "now"}\n[]\nnonsense\n'
        )
    journal.append_metrics("train", 20, {"train/loss": 2.0})
    for _ in range(2):  # a line is met once
        told = scrape(exporter)
        assert value(told, "gpt_exporter_failures_total", part="runs") == 1
        assert value(told, "gpt_training_loss", run="a-run") == 2.0
    Path("spool/a-folder.jsonl").mkdir()
    for count in (2, 3):
        told = scrape(exporter)
        assert value(told, "gpt_exporter_failures_total", part="runs") == count
        assert value(told, "gpt_exporter_failures_total", part="disks") == 0
        assert value(told, "gpt_training_loss", run="a-run") == 2.0
        assert value(told, "gpt_disk_size_bytes", place="project") == shutil.disk_usage(project).total


def test_a_server_that_hangs_costs_a_scrape_nothing_and_is_told(project: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        uri = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with exporting(project, MLFLOW_TRACKING_URI=uri) as address:
            connection, _ = listener.accept()
            assert connection.recv(1000).startswith(b"GET /"), "the exporter has asked"
            told = read(get(address))
            assert value(told, "gpt_disk_size_bytes", place="project"), "a scrape was answered"
            connection.setblocking(False)
            with pytest.raises(BlockingIOError):  # and the question still waits
                connection.recv(1)
            connection.close()
            wait_for(lambda: value(read(get(address)), "gpt_server_up", server="mlflow") == 0)


def test_a_users_mistake_is_one_line(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        line = fail_to_export(project, "--port", str(port))
        assert line == f"error: --host 127.0.0.1 --port {port}: Address already in use; name another"
    assert fail_to_export(project, "--port", "none").startswith("error: Invalid value for '--port'")
    assert "params.yaml: not found" in fail_to_export(tmp_path_factory.mktemp("empty"))


STAND_IN = """
// What NVIDIA's library answers, by the types of its header nvml.h.
#include <string.h>
typedef struct { unsigned int gpu, memory; } utilization;
typedef struct { unsigned long long total, free, used; } memory;
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device) { *device = (void *)(0x7f0000000000ull + index); return 0; }
static int of(void *device) { return (int)((unsigned long long)device - 0x7f0000000000ull); }
int nvmlDeviceGetName(void *device, char *name, unsigned int length) {
  strncpy(name, of(device) ? "A part of one" : "NVIDIA H100", length); return 0; }
int nvmlDeviceGetUtilizationRates(void *device, utilization *used) {
  if (of(device)) return 3; /* not supported */ used->gpu = 87; used->memory = 40; return 0; }
int nvmlDeviceGetMemoryInfo(void *device, memory *all) {
  all->total = 85899345920ull; all->free = 1; all->used = 85899345919ull; return 0; }
int nvmlDeviceGetTemperature(void *device, int sensor, unsigned int *celsius) {
  if (sensor) return 2; *celsius = 61; return 0; }
"""


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library in the place of the driver's, which is where there is a GPU only."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler is installed")
    library = tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(library)], input=STAND_IN.encode(), check=True)
    return library


def test_gpus_are_told_by_the_drivers_library_and_what_one_does_not_tell_is_left_out(stand_in: Path) -> None:
    size = 85_899_345_920
    assert list(Gpus(str(stand_in)).look()) == [
        Gpu(0, "NVIDIA H100", 0.87, size - 1, size, 61),
        Gpu(1, "A part of one", None, size - 1, size, 61),
    ]
    assert list(Gpus("no-such-library.so").look()) == []


@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="there is no GPU of NVIDIA's")
def test_gpus_are_those_that_the_drivers_own_command_shows() -> None:
    done = subprocess.run(
        ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, check=True
    )
    assert [gpu.name for gpu in Gpus().look()] == done.stdout.splitlines()


@pytest.mark.slow
def test_a_real_run_is_told_as_it_recorded_itself_killed_and_ended(make_project: Callable[..., Path]) -> None:
    intervals = {"log_interval": 10, "eval_interval": 100, "checkpoint_interval": 50, "sample_interval": 1000}
    folder = make_project(train={"max_steps": 1000} | intervals)
    with exporting(folder) as address:
        trainer = train(folder)
        wait_for(lambda: trainer.poll() is not None or (value(read(get(address)), "gpt_checkpoint_step") or 0) >= 100)
        alive = read(get(address))
        trainer.kill()
        trainer.wait()
        told = read(get(address))
        (journal,) = paths.SPOOL.glob("*.jsonl")
        run = journal.stem
        assert (state(alive, run), state(told, run)) == ("running", "dead")
        assert (value(alive, "gpt_trainers"), value(told, "gpt_trainers")) == (1, 0)
        events = list(read_events(journal))
        recorded: dict[str, float] = {}
        for event in events:
            recorded |= event["values"] if event["kind"] == "metrics" else {}
        rows = [event for event in events if event["kind"] == "metrics" and event["group"] == "train"]
        same = {
            "gpt_training_loss": recorded["train/loss"],
            "gpt_training_gradient_norm": recorded["train/gradient_norm"],
            "gpt_training_learning_rate": recorded["train/learning_rate"],
            "gpt_training_tokens_per_second": recorded["system/tokens_per_second"],
            "gpt_training_peak_memory_bytes": recorded["system/peak_memory_megabytes"] * 1e6,
            "gpt_training_validation_bpb": recorded["validation/bits_per_byte"],
            "gpt_training_step": rows[-1]["step"],
            "gpt_training_max_steps": 1000,
            "gpt_checkpoint_interval_steps": 50,
        }
        assert {name: value(told, name, run=run) for name in same} == pytest.approx(same)
        (place,) = paths.CHECKPOINTS.glob("*")
        newest = checkpoints.steps(place)[-1]
        size = sum(file.stat().st_size for file in newest.iterdir())
        assert value(told, "gpt_checkpoint_step") == checkpoints.step_of(newest)
        assert value(told, "gpt_checkpoint_size_bytes") == size
        assert value(told, "gpt_checkpoints") == len(checkpoints.steps(place))
        age = time.time() - (newest / checkpoints.MANIFEST).stat().st_mtime
        assert 0 < (value(told, "gpt_checkpoint_age_seconds") or 0) < age
        seconds = value(told, "gpt_checkpoint_save_seconds")
        assert seconds is None or 0 < seconds < 60, "none where the file system keeps no time of birth"
        wait_for(lambda: value(read(get(address)), "gpt_registry_up") == 1)
        assert train(folder).wait() == 0
        ended = read(get(address))
        assert value(ended, "gpt_training_step") is None, "MLflow has it all"
        assert value(ended, "gpt_spool_undelivered_bytes") == 0


@contextmanager
def prometheus(folder: Path, targets: Mapping[str, str], rules: str) -> Iterator[Callable[..., Any]]:
    """Run a Prometheus that asks `targets` by the name of their job, and judges by rules; yield what asks its API."""
    configuration = yaml.safe_load((FOLDER / "prometheus.yml").read_text(encoding="utf-8"))
    configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    for job in configuration["scrape_configs"]:
        job["static_configs"][0]["targets"] = [re.sub(r"http://|/metrics", "", targets[job["job_name"]])]
    folder.mkdir()
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    (folder / "alerts.yml").write_text(rules)
    port = free_port()
    process = subprocess.Popen(
        ["prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data", f"--web.listen-address=127.0.0.1:{port}"],
        cwd=folder, stdout=subprocess.DEVNULL, stderr=(folder / "log").open("wb"),
    )  # fmt: skip

    def ask(path: str, **query: str) -> Any:
        try:
            answer = json.loads(get(f"http://127.0.0.1:{port}/api/v1/{path}?{urlencode(query)}"))
        except OSError:
            assert process.poll() is None, (folder / "log").read_text()
            return None
        return answer["data"]

    try:
        wait_for(lambda: ask("targets"))
        yield ask
    finally:
        process.terminate()
        process.wait(timeout=60)


# Of a project without fine-tuned models and benchmarks, whose environment names no server, and whose candidate passed.
MAY_BE_EMPTY = (
    "gpt_model_figure", "gpt_model_benchmarks_centred_ratio", "gpt_server_up", "gpt_model_refused", "gpt_training_mfu_ratio",
    "ALERTS",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="Prometheus is not installed")
def test_a_real_prometheus_answers_the_dashboard_and_raises_an_alert(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stand_in: Path
) -> None:
    """A model is registered and served, a run trains and then hangs."""
    folder = tmp_path / "project"
    shutil.copytree(built, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GPT_CACHE", str(tmp_path / "cache"))
    register_model(folder, 5)
    assert promote(load_params(), folder).verdict == "promoted"
    intervals = {"log_interval": 10, "eval_interval": 50, "checkpoint_interval": 50, "sample_interval": 100_000}
    change_params(folder, {"train": {"max_steps": 100_000} | intervals})
    rules = (FOLDER / "alerts.yml").read_text(encoding="utf-8")
    soon = re.sub(r", 600\)(?s:(.*?))for: 1m", r", 3)\1for: 1s", rules, count=1)
    assert soon != rules
    with (
        running_server(folder, [paths.BASE_MODEL], PYTHONPATH=str(ROOT)) as server,
        exporting(folder, LD_LIBRARY_PATH=str(stand_in.parent)) as address,
        prometheus(tmp_path / "prometheus", {"gpt": address, "gpt-serve": server.address}, soon) as ask,
    ):
        complete(server.address)
        trainer = train(folder)
        try:
            wait_for(lambda: trainer.poll() is not None or found(ask, "gpt_checkpoint_save_seconds"))
            wait_for(lambda: found(ask, "gpt_model_version"))
            wait_for(lambda: found(ask, "gpt_gpu_memory_used_bytes"))
            asked = expressions()
            empty = [text for text in asked[len(RULES) :] if not wait_or_empty(ask, text)]
            assert [text for text in empty if not any(name in text for name in MAY_BE_EMPTY)] == []
            judged = [rule for group in ask("rules")["groups"] for rule in group["rules"]]
            assert len(judged) == len(RULES)
            wait_for(lambda: all(rule["health"] == "ok" for group in ask("rules")["groups"] for rule in group["rules"]))
            assert not found(ask, 'ALERTS{alertname="TrainerStalled", alertstate="firing"}')
            trainer.send_signal(signal.SIGSTOP)
            (alert,) = wait_for(lambda: found(ask, 'ALERTS{alertname="TrainerStalled", alertstate="firing"}'))
            (journal,) = paths.SPOOL.glob("*.jsonl")
            assert alert["metric"]["run"] == journal.stem
            (raised,) = [one for one in ask("alerts")["alerts"] if one["labels"]["alertname"] == "TrainerStalled"]
            assert raised["annotations"]["summary"].startswith(f"{journal.stem}: no step for ")
        finally:
            trainer.kill()
            trainer.wait()


def found(ask: Callable[..., Any], expression: str) -> list[dict[str, Any]]:
    answer = ask("query", query=expression)
    return answer["result"] if answer else []


def wait_or_empty(ask: Callable[..., Any], expression: str) -> bool:
    """Whether Prometheus has data for an expression; what must be there is waited for."""
    if any(name in expression for name in MAY_BE_EMPTY):
        return bool(found(ask, expression))
    return bool(wait_for(lambda: found(ask, expression)))


def complete(address: str) -> None:
    """Let a server answer a request."""
    model = json.loads(get(f"{address}/v1/models"))["data"][0]["id"]
    body = json.dumps({"model": model, "prompt": "to be", "max_tokens": 4}).encode()
    request = urllib.request.Request(f"{address}/v1/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert json.loads(answer.read())["choices"]
