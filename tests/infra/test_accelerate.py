"""What the configurations of infra/accelerate tell a trainer is what params.yaml says, and what it computes the same."""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType
from accelerate.utils.launch import prepare_multi_gpu_env, prepare_simple_launcher_cmd_env

from flows.server import free_port
from gpt.params.project import load_params
from gpt.processes.environment import check_environment
from tests import ROOT
from tests.processes.test_launch import ACCELERATE, run_with
from tests.training.conftest import fresh_accelerate, make_project  # noqa: F401
from tests.training.test_trainer import WEIGHTS, start

CONFIGURATIONS = sorted((ROOT / "infra/accelerate").glob("*.yaml"))
WITHOUT_GPU = {"CUDA_VISIBLE_DEVICES": ""}  # Gloo stands in for NCCL


def asked(file: Path) -> dict[str, Any]:
    """What params.yaml has to say for a configuration: its comment names it."""
    line = re.search(r"^# params\.yaml: +launch: (\{.*?\})", file.read_text(encoding="utf-8"), re.MULTILINE)
    assert line is not None
    return yaml.safe_load(line[1])


@pytest.mark.parametrize("file", CONFIGURATIONS, ids=lambda file: file.stem)
def test_accelerate_knows_all_keys_and_what_it_passes_on_agrees_with_params_yaml(file: Path) -> None:
    """By Accelerate's own reading of the file, and our own of the variables that come of it."""
    loaded = load_config_from_file(str(file))  # refuses keys that it does not know
    assert isinstance(loaded, ClusterConfig)
    parser = launch_command_parser()
    options = {action.dest for action in parser._actions}
    assert {*(loaded.fsdp_config or {})} <= options
    params = load_params(ROOT / "params.yaml")
    launch = params.launch.model_copy(update=asked(file))
    assert loaded.num_processes == launch.num_processes * launch.num_machines
    assert loaded.num_machines == launch.num_machines
    assert (loaded.distributed_type == DistributedType.FSDP) == (launch.strategy == "fsdp")
    # Machine 1, as machine 0 would first look whether its port is free here.
    command = ["--config_file", str(file), "--machine_rank", "1", "-m", "gpt", "pretrain"]
    arguments, *_ = _validate_launch_command(parser.parse_args(command))
    is_several = arguments.multi_gpu or arguments.use_fsdp
    passed = prepare_multi_gpu_env(arguments) if is_several else prepare_simple_launcher_cmd_env(arguments)[1]
    assert "ACCELERATE_MIXED_PRECISION" in passed
    check_environment(params.model_copy(update={"launch": launch}), on_gpu=not arguments.use_cpu, environment=passed)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("cpu", marks=pytest.mark.slow),
        pytest.param("ddp", marks=pytest.mark.long),
        pytest.param("fsdp", marks=pytest.mark.long),
    ],
)
def test_a_configuration_trains_to_the_same_bytes(make_project: Callable[..., Path], name: str) -> None:  # noqa: F811
    file = ROOT / f"infra/accelerate/{name}.yaml"
    launch = asked(file)
    launch["micro_batch_size"] = 8 // launch["num_processes"]
    expected = train_without_accelerate(make_project, launch)
    done = run_with((*ACCELERATE, f"--config_file={file}"), make_project("other", launch=launch), **WITHOUT_GPU)
    assert done.returncode == 0, done.stdout + done.stderr
    assert WEIGHTS.read_bytes() == expected


@pytest.mark.long
def test_two_machines_train_to_the_bytes_of_one(make_project: Callable[..., Path]) -> None:  # noqa: F811
    """Two launchers here, which meet as those of two machines do."""
    file = ROOT / "infra/accelerate/multi-node.yaml"
    launch = asked(file) | {"micro_batch_size": 4}
    expected = train_without_accelerate(make_project, launch | {"num_machines": 1, "num_processes": 2})
    folder = make_project("other", launch=launch)
    place = ("--main_process_ip=127.0.0.1", f"--main_process_port={free_port()}")
    with ThreadPoolExecutor() as pool:
        # The second is told that it is not machine 0, so that it does not look whether the port of the first is free.
        options = [(f"--config_file={file}", *place, *more) for more in ((), ("--machine_rank=1",))]
        started = [pool.submit(run_with, (*ACCELERATE, *each), folder, **WITHOUT_GPU) for each in options]
    assert [each.result().returncode for each in started] == [0, 0], [each.result().stderr for each in started]
    assert WEIGHTS.read_bytes() == expected


def train_without_accelerate(make_project: Callable[..., Path], launch: dict[str, Any]) -> bytes:  # noqa: F811
    make_project("own", launch=launch)
    output, errors = start(**WITHOUT_GPU).communicate(timeout=180)
    assert WEIGHTS.exists(), output + errors
    return WEIGHTS.read_bytes()
