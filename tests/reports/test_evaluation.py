"""The evaluation's page: what it shows of a project, of a version beside the champion, and of texts that mean harm."""

import contextlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from gpt import paths
from gpt.errors import UserError
from gpt.evaluation.evaluate import evaluate
from gpt.files import read_json, sha256_file, sha256_tree, write_json
from gpt.params.project import load_params
from gpt.reports.evaluation import PAGE, draw_page, draw_training, write_comparison, write_report
from gpt.reports.model_page.charts import Curve
from gpt.reports.model_page.measured import Measured, of_files, of_project, wilson
from gpt.reports.page import escape_text
from tests import ROOT

EVIL = "</td><script>alert(1)</script><img src='http://x.example/a.png' onerror=\"alert(2)\">&amp;\x00\u202e"
SHOWN = EVIL.replace("\x00", "\\u0000").replace("\u202e", "\\u202e")
BENCHMARK: dict[str, Any] = {
    "items": 100, "clean_items": 90, "accuracy": 0.5, "accuracy_norm": 0.4, "standard_error": 0.05, "chance": 0.25,
    "bits_per_byte": 2.0, "perplexity": None, "untrained": {"bits_per_byte": 7.5},
    "clean": {"accuracy": 0.4, "accuracy_norm": 0.3, "standard_error": 0.05, "chance": 0.25, "bits_per_byte": 2.1,
              "perplexity": None},
}  # fmt: skip


class Page(HTMLParser):
    """What a browser makes of a page: tags, attributes, the text of each section, the cells of each table."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.sections: dict[str, str] = {}
        self.rows: list[list[str]] = []
        self._section, self._open = "", list[str]()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag == "section":
            self._section = ""
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in ("meta", "br", "img"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"{tag} ends what it did not begin"

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "h2":
            self._section = data
        self.sections[self._section] = self.sections.get(self._section, "") + data
        if {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data

    def row(self, first: str) -> list[str]:
        """The cells after the first one of the first row that begins so."""
        return next(row[1:] for row in self.rows if row and row[0] == first)


@pytest.fixture(scope="session")
def evaluated(trained_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which every stage up to evaluate has run. To copy."""
    folder = tmp_path_factory.mktemp("evaluated") / "project"
    shutil.copytree(trained_project, folder)
    with contextlib.chdir(folder):
        evaluate(load_params())
    return folder


@pytest.fixture
def project(evaluated: Path, copy_project: Callable[..., Path]) -> Path:
    """A copy of it for one test alone; the current folder."""
    return copy_project(evaluated)


def written() -> Page:
    write_report(load_params())
    return Page((paths.REPORTS / PAGE).read_text(encoding="utf-8"))


def test_the_page_says_what_was_trained_on_what_and_how_good_it_is(project: Path) -> None:
    page = written()
    metrics = read_json(paths.EVALUATION, "")
    tokens = read_json(paths.TOKENIZE_COUNTS, "")
    assert f"A GPT of {metrics['parameters']:,} parameters, 1 layer, 2 heads" in page.sections[""]
    assert "Trained for 4 steps of 8 sequences of 16 tokens" in page.sections[""]
    assert f"{metrics['test']['bits_per_byte']:.4f} bits per byte (test)" in page.sections[""]
    source = page.row("made-up")
    assert source[1] == "none", "its licence"
    assert source[2:5] == [f"{tokens['train'][key]:,}" for key in ("documents", "bytes", "tokens")]
    assert page.row("train")[:3] == source[2:5]
    for split in ("validation", "test"):
        assert [f"{metrics[split]['bits_per_byte']:.4f}", f"{metrics[split]['loss']:.4f}"] == next(
            row[1:3] for row in page.rows if row[0] == split and len(row) == 7
        )
    assert page.row("train.max_steps") == ["4"]
    assert not [row for row in page.rows if row[:1] == ["train.sample_interval"]], "decides no weight"
    assert page.row("weights") == [metrics["weights_sha256"]]


def test_every_sample_stands_whole_beside_its_temperature(project: Path) -> None:
    page = written()
    samples = read_json(paths.SAMPLES, "")
    assert {sample["temperature"] for sample in samples} == {0.0, 0.8, 1.2}
    first = page.rows.index([f"temperature {each}" for each in ("0", "0.8", "1.2")])
    for row, prompt in zip(page.rows[first + 1 :], load_params().evaluate.prompts, strict=False):
        for sample in samples:
            if sample["prompt"] == prompt:
                text = unescape(escape_text(prompt + sample["completion"]))
                assert row[page.rows[first].index(f"temperature {sample['temperature']:g}")].startswith(text)
    assert "At most 8 tokens, drawn among the 50 likeliest tokens." in page.sections["Samples"]


def test_it_works_without_a_network_and_without_a_script(project: Path) -> None:
    page = written()
    assert not {"script", "img", "link", "iframe", "object"} & set(page.tags)
    for tag, name, value in page.attributes:
        assert name not in ("href", "src", "xlink:href") or (value or "").startswith("#"), (tag, name, value)
        assert not name.startswith("on"), (tag, name)
    html = (paths.REPORTS / PAGE).read_text(encoding="utf-8")
    assert "default-src 'none'" in html
    assert "prefers-color-scheme: dark" in html
    assert not re.search(r"url\((?!#)", html)


def test_every_picture_has_a_name_of_its_own_and_a_title(project: Path) -> None:
    page = written()
    pictures = page.tags.count("svg")
    labels = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    assert len(labels) == len(set(labels)) == pictures >= 4
    assert [value for tag, name, value in page.attributes if (tag, name) == ("svg", "role")] == ["img"] * pictures
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids)), "a clip path of one picture is not another's"
    text = (paths.REPORTS / PAGE).read_text(encoding="utf-8")
    for axis in ("optimizer step", "loss (nats per token)", "tokens before it in the context", "bits per byte"):
        assert f">{axis}</text>" in text


def test_reporting_twice_gives_the_same_bytes(project: Path) -> None:
    write_report(load_params())
    before = sha256_tree(paths.REPORTS)
    code = "from gpt.reports import evaluation; from gpt.params import project; evaluation.write_report(project.load_params())"
    environment = os.environ | {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "LC_ALL": "C", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=120)
    assert sha256_tree(paths.REPORTS) == before
    assert sorted(path.name for path in paths.REPORTS.iterdir()) == [PAGE, "training.png"]


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (paths.EVALUATION, r"evaluate\.json: not found; run `gpt evaluate`"),
        (paths.SAMPLES, r"samples\.json: not found; run `gpt evaluate`"),
        (paths.ATTENTION, r"attention\.json: not found; run `gpt evaluate`"),
        (paths.TOKENIZE_COUNTS, r"tokenize\.json: not found; run `gpt tokenize`"),
        (paths.PREPARE_COUNTS, r"prepare\.json: not found; run `gpt prepare`"),
        (paths.TRAINING_PLOT, r"training\.csv: not found; run `gpt pretrain`"),
    ],
)
def test_what_is_missing_is_named_and_the_earlier_page_stays(project: Path, missing: Path, message: str) -> None:
    write_report(load_params())
    before = sha256_tree(paths.REPORTS)
    missing.unlink()
    with pytest.raises(UserError, match=message):
        write_report(load_params())
    assert sha256_tree(paths.REPORTS) == before


@pytest.mark.parametrize(
    ("path", "content"),
    [
        (paths.EVALUATION, {"validation": [], "test": {"by_source": 3, "bits_per_byte": 1.0}, "parameters": 1}),
        (paths.SAMPLES, {"prompt": "x"}),
        (paths.SAMPLES, [{"prompt": "x", "completion": "y", "temperature": "hot"}]),
        (paths.ATTENTION, {"tokens": ["a"], "maps": [{"layer": 1}]}),
        (paths.TOKENIZE_COUNTS, {"train": 1, "validation": {}, "test": {}}),
    ],
)
def test_what_is_not_as_its_stage_wrote_it_is_a_clear_error(project: Path, path: Path, content: Any) -> None:
    write_json(path, content)
    with pytest.raises(UserError, match=r"\.json: not as `gpt evaluate` .*again"):
        write_report(load_params())
    assert not paths.REPORTS.exists()


@pytest.mark.parametrize("damaged", ["training.csv", "validation.csv"])
@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"a,b\n1,2\n", b"step,train_loss,validation_loss\none,2,3\n"])
def test_a_damaged_curve_is_a_clear_error(tmp_path: Path, damaged: str, content: bytes | None) -> None:
    training, validation = tmp_path / "training.csv", tmp_path / "validation.csv"
    training.write_text("step,train_loss\n1,3.5\n")
    validation.write_text("step,validation_loss\n1,3.5\n")
    (tmp_path / damaged).unlink()
    if content is not None:
        (tmp_path / damaged).write_bytes(content)
    with pytest.raises(UserError, match=rf"{damaged}: .*run `gpt pretrain`"):
        draw_training(training, validation, tmp_path / "training.png")


def candidate(**change: Any) -> Measured:
    """A model of made-up figures, with everything that a page can show."""
    held_out = {
        "loss": 3.5, "perplexity": 33.1, "bits_per_byte": 2.1, "tokens": 1000, "bytes": 2000, "documents": 4,
        "documents_sha256": "a" * 64, "by_source": {"plays": {"bits_per_byte": 2.1, "bytes": 2000, "documents": 4}},
        "by_position": [{"first": 1, "last": 8, "tokens": 900, "bits_per_token": 6.0, "bits_per_byte": 3.0},
                        {"first": 9, "last": 16, "tokens": 900, "bits_per_token": 5.0, "bits_per_byte": 2.0}],
    }  # fmt: skip
    values: dict[str, Any] = {
        "name": "version 2",
        "evaluation": {"test": held_out, "validation": held_out, "parameters": 1234, "centred": 0.1,
                       "weights_sha256": "b" * 64, "benchmarks": {"piqa": BENCHMARK}},
        "samples": [{"prompt": "To be", "temperature": 0.0, "completion": " or not"}],
        "attention": {"tokens": ["START", "To"], "n_layer": 1, "n_head": 1,
                      "maps": [{"layer": 1, "head": 1, "weights": [[1.0], [0.25, 0.75]]}]},
        "training": {"step": [1.0, 2.0], "train_loss": [5.0, 4.0], "learning_rate": [0.1, 0.2], "gradient_norm": [1.0, 9.0]},
        "validation": {"step": [2.0], "validation_loss": [4.5], "validation_bits_per_byte": [2.5]},
        "params": {"base": {"seed": 1}, "model": {"n_layer": 1, "block_size": 16}, "train": {"max_steps": 2, "batch_size": 8}},
        "throughput": ((1, 1000.0), (2, 1100.0)),
        "facts": {"commit": "0123abc"},
    }  # fmt: skip
    return Measured(**(values | change))


def test_two_models_stand_side_by_side_with_the_verdict(tmp_path: Path) -> None:
    champion = candidate(
        name="version 1 (champion)",
        samples=[{"prompt": "To be", "completion": " free"}, {"prompt": "To be", "temperature": 0.0, "completion": " a"}],
        params={"base": {"seed": 2}, "model": {"n_layer": 1}},
        facts={"commit": "4567def"},
    )  # fmt: skip
    verdict = [
        {"check": "test_bits_per_byte", "passed": True, "text": "2.1 against 2.2"},
        {"check": "repetition", "passed": False, "text": "90%"},
    ]
    path = write_comparison(tmp_path / "comparison", candidate(), champion, verdict)
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    assert "<h1>Evaluation of version 2 beside version 1 (champion)</h1>" in html
    assert page.row("✓ passed") == ["test_bits_per_byte", "2.1 against 2.2"]
    assert page.row("✗ failed") == ["repetition", "90%"]
    assert page.row("temperature 0") == ["To be or not", "To be a"]
    assert page.row("temperature unknown") == ["not sampled", "To be free"], "of a release that noted no temperature"
    assert page.row("base.seed") == ["1", "2"]
    assert page.row("commit") == ["0123abc", "4567def"]
    assert "tokens per second</text>" in html
    assert 'aria-label="Throughput by step"' in html
    labels = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    assert len(labels) == len(set(labels))
    assert sum("Attention weights" in str(label) for label in labels) == 2, "of both"
    assert html.count(">version 1 (champion)</text>") >= 3, "in the legends"
    assert len({value for _, name, value in page.attributes if name == "id"}) == html.count(' id="')


def test_a_version_of_odd_figures_is_a_clear_error_and_no_page(tmp_path: Path) -> None:
    odd = candidate(name="version 1", evaluation={"test": {"by_source": 3}})
    with pytest.raises(UserError, match="version 2 beside version 1: their figures are not of the form"):
        write_comparison(tmp_path / "comparison", candidate(), odd)
    assert not list(tmp_path.iterdir())


def test_accuracies_of_items_met_in_training_are_apart() -> None:
    page = Page(draw_page("x", [candidate()]))
    (row,) = [row for row in page.rows if row[0] == "piqa"]
    assert row[1:4] == ["100", "50.0 ± 5.0 %", "25.0 %"]
    assert row[5:9] == ["90", "40.0 %", "10", "100.0 %"]
    assert row[9:11] == ["2.000", "7.500"]
    legend = draw_page("x", [candidate()])
    assert ">met in training</text>" in legend
    assert ">chance</text>" in legend
    clean = {"benchmarks": {"piqa": BENCHMARK | {"clean_items": 100}}}
    assert ">met in training</text>" not in draw_page("x", [candidate(evaluation=clean)])


def test_measures_of_other_documents_are_not_said_to_compare() -> None:
    other = candidate().evaluation | {"test": candidate().split("test") | {"documents_sha256": "c" * 64}}
    said = "measured on other test documents"
    assert said in draw_page("x", [candidate(), candidate(name="old", evaluation=other)])
    assert said not in draw_page("x", [candidate(), candidate(name="old")])


@pytest.mark.parametrize(
    "change",
    [
        {"evaluation": {}}, {"samples": []}, {"attention": {}}, {"training": {}}, {"validation": {}}, {"params": {}},
        {"throughput": ()}, {"facts": {}},
        {"training": {"step": [], "train_loss": []}, "validation": {"step": [], "validation_loss": []}, "throughput": ()},
        {"training": {"step": [1.0, 2.0], "train_loss": [math.nan, math.inf]}},
        {"training": {"step": [1.0, 2.0], "train_loss": [2.0, math.nan], "gradient_norm": [0.0, 0.0]}},
        {"samples": [{"prompt": "x", "temperature": 0.0, "completion": ""}]},
        {"samples": [{"prompt": "Было", "temperature": 1.0, "completion": "未来 שלום \U0001f600"}]},
        {"evaluation": {"benchmarks": {"one": BENCHMARK | {"items": 1, "clean_items": 0, "standard_error": None, "clean": None}}}},
        {"evaluation": {"test": {"by_position": [{"first": 1, "last": 1, "tokens": 1, "bits_per_token": 1.0,
                                                  "bits_per_byte": None}]}}},
        {"evaluation": {"test": {"by_source": {f"source{n}": {"bits_per_byte": 1.0, "bytes": n} for n in range(40)}}}},
    ],
)  # fmt: skip
def test_a_page_of_less_or_odd_figures_is_whole(change: dict[str, Any]) -> None:
    alone, beside = candidate(**change), candidate(name="another")
    for models in ([alone], [beside, alone]):
        page = Page(draw_page("x", models))
        assert {"Training", "Samples", "Benchmarks"} <= page.sections.keys()
        assert not re.search(r"\b(nan|inf|None)\b", "".join(page.sections.values()))


def test_values_that_are_not_finite_are_counted_and_left_out() -> None:
    page = Page(draw_page("x", [candidate(training={"step": [1.0, 2.0], "train_loss": [math.nan, 3.0]})]))
    assert "1 recorded values are not finite numbers" in page.sections["Training"]


def test_of_a_long_run_no_peak_is_lost_and_the_page_stays_small() -> None:
    steps = [float(step) for step in range(200_000)]
    losses = [3.0 + 1 / (1 + step) + (step == 123_456) * 50 for step in steps]
    points = Curve("x", steps, losses).points()
    assert len(points) <= 1000
    assert points == sorted(points)
    assert (123_456, losses[123_456]) in points
    assert len(draw_page("x", [candidate(training={"step": steps, "train_loss": losses})])) < 400_000


def test_of_many_sources_the_largest_are_drawn_and_all_listed() -> None:
    sources = {f"source{n}": {"bits_per_byte": 1.5, "bytes": n, "documents": 1} for n in range(40)}
    html = draw_page("x", [candidate(evaluation={"test": {"by_source": sources}})])
    assert len(re.findall(r">source\d+</text>", html)) == 20
    assert ">source39</text>" in html
    assert ">source19</text>" not in html
    assert len({row[1] for row in Page(html).rows if row[0] == "test"}) == 40


def test_no_text_acts_on_the_page() -> None:
    model = candidate(
        name=EVIL,
        samples=[{"prompt": EVIL, "temperature": 0.5, "completion": EVIL}],
        attention={"tokens": ["START", "<b>"], "n_layer": 1, "n_head": 1,
                   "maps": [{"layer": 1, "head": 1, "weights": [[1.0], [0.5, 0.5]]}]},
        params={"fetch": {"sources": [{"name": EVIL, "package": EVIL, "licence": EVIL, "sha256": EVIL}]}},
        facts={EVIL: EVIL},
    )  # fmt: skip
    html = draw_page(EVIL, [model, model], [{"check": EVIL, "passed": True, "text": EVIL}])
    page = Page(html)
    assert not {"script", "img"} & set(page.tags)
    assert "\u202e" not in html
    assert page.row("temperature 0.5") == [SHOWN * 2, SHOWN * 2]
    assert "&lt;b&gt;</text>" in html


def test_a_versions_files_are_read_as_a_projects(project: Path) -> None:
    files = {
        path.name: path.read_bytes()
        for path in (paths.EVALUATION, paths.SAMPLES, paths.ATTENTION, paths.TRAINING_PLOT, paths.VALIDATION_PLOT,
                     paths.TOKENIZE_COUNTS, paths.PREPARE_COUNTS, Path("params.yaml"))
    }  # fmt: skip
    ours, theirs = of_project(load_params()), of_files("this model", files)
    assert draw_page("x", [theirs]) == draw_page("x", [ours])


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"[]", b"{}", b"null", b"a: [", b"step,x\n1\n"])
def test_files_of_an_earlier_release_are_shown_as_far_as_they_can_be_read(content: bytes) -> None:
    names = ("evaluate.json", "samples.json", "attention.json", "training.csv", "validation.csv", "params.yaml", "tokenize.json",
             "prepare.json")  # fmt: skip
    broken = of_files("old", dict.fromkeys(names, content))
    assert "Not known" in Page(draw_page("x", [candidate(), broken])).sections["What it was trained on"]


@pytest.mark.parametrize(
    ("share", "count", "low", "high"), [(0.5, 100, 0.404, 0.596), (0.0, 10, 0.0, 0.278), (1.0, 10, 0.722, 1.0)]
)
def test_intervals_are_wilsons(share: float, count: int, low: float, high: float) -> None:
    assert wilson(share, count) == pytest.approx((low, high), abs=1e-3)
    assert wilson(share, 0) is None


def test_the_command_says_where_the_page_is(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from gpt.commands.main import main

    assert main(["report"]) == 0
    assert capsys.readouterr().out.startswith("report: reports/evaluate/index.html\n")
    assert json.loads(paths.SAMPLES.read_text())
    assert sha256_file(paths.REPORTS / PAGE)
