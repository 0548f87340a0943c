"""The data card, of a project of two sources with duplicates, a passage of a test document, and texts that mean harm."""

import itertools
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt import paths
from gpt.commands.main import main
from gpt.corpus.splits import SPLITS
from gpt.errors import UserError
from gpt.files import sha256_file
from gpt.params.project import load_params
from gpt.reports.data_card import write_card
from gpt.reports.page import shares_of
from gpt.sources import benchmarks
from gpt.sources import fetch as sources
from gpt.tokens.shards import data_id
from tests.conftest import prepare_data, small_change, write_params

EVIL = "</td><script>alert(1)</script><img src='http://x.example/a.png' onerror=\"alert(2)\">&amp;\x00\u202e"
SHOWN = EVIL.replace("\x00", "\\u0000").replace("\u202e", "\\u202e")


class Page(HTMLParser):
    """What a browser makes of a page: tags, attributes, the text of each section, the cells of each table."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.sections: dict[str, str] = {}
        self.rows: list[list[str]] = []
        self._heading, self._in = "", ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        self._in = tag
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._in = ""

    def handle_data(self, data: str) -> None:
        if self._in == "h2":
            self._heading = data
        self.sections[self._heading] = self.sections.get(self._heading, "") + data
        if self._in in ("td", "th", "code", "q") and self.rows:
            self.rows[-1][-1] += data

    def row(self, first: str) -> list[str]:
        """The cells after the first one of the only row that begins so."""
        (found,) = (row[1:] for row in self.rows if row and row[0] == first)
        return found


def texts() -> dict[str, list[str]]:
    choose = random.Random(0)
    words = [f"word{number}" for number in range(500)]
    forum = [f"{EVIL.replace(chr(0), '')} {number} " + " ".join(choose.sample(words, 60)) for number in range(60)]
    books = [" ".join(choose.sample(words, 100)) for _ in range(60)]
    for number in range(20):  # what is held out of these is met in what is not
        books.append(" ".join(choose.sample(words, 300)) + " " + books[number])
    return {"forum": forum + forum[:7], "books": books}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which every stage up to tokenize has run. To read, not to change."""
    folder = tmp_path_factory.mktemp("card")
    listed = []
    for name, documents in texts().items():
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents), encoding="utf-8")
        listed.append({"name": name, "kind": "local", "path": str(path), "sha256": sha256_file(path), "licence": EVIL})
    change = small_change(folder / "forum.jsonl")
    change["fetch"]["sources"] = listed
    change["tokenize"] = {"shard_tokens": 8192}
    write_params(folder, change)
    params = load_params(folder / "params.yaml")
    sources.fetch(params.fetch.sources, folder / paths.RAW)
    benchmarks.build_benchmarks(params.fetch.benchmarks, folder / paths.BENCHMARKS)
    prepare_data(folder)
    return folder


def write(project: Path, output: Path, **change: Any) -> str:
    """Write the project's card with some values of its report changed, and return it."""
    params = load_params(project / "params.yaml")
    documents = output.parent / "documents"
    documents.mkdir(exist_ok=True)
    report = json.loads((project / paths.DOCUMENTS / "report.json").read_text(encoding="utf-8")) | change
    (documents / "report.json").write_text(json.dumps(report), encoding="utf-8")
    write_card(params, documents, project / paths.TOKENS, output)
    return output.read_text(encoding="utf-8")


def test_no_text_acts_on_the_page_and_the_page_needs_nothing_else(project: Path, tmp_path: Path) -> None:
    match = {"document": EVIL, "source": EVIL, "action": "cut", "words": 13, "text": EVIL, "in": {EVIL: ["0"]}}
    passage = {"documents": 11, "words": 13, "text": EVIL, "in": [EVIL]}
    html = write(
        project,
        tmp_path / "data.html",
        matches=[match],
        common=[passage],
        examples={EVIL: [{"text": EVIL, EVIL: EVIL}, EVIL]},
    )
    page = Page(html)
    assert page.tags.isdisjoint({"script", "img", "link", "iframe", "object", "base", "form", "a"})
    assert page.tags == Page(write(project, tmp_path / "other.html")).tags
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("src", "action")]
    assert all(value and value.startswith("#") for name, value in page.attributes if name.endswith("href"))
    assert "url(http" not in html and "@import" not in html
    for section in ("Sources", "Contamination", "Examples of what was removed"):
        assert SHOWN in page.sections[section], "it is shown as it is"


def test_the_same_data_make_the_same_page_in_any_process(project: Path, tmp_path: Path) -> None:
    first = write(project, tmp_path / "data.html")
    code = (
        "import sys; from pathlib import Path; from gpt.params.project import load_params;"
        "from gpt.reports.data_card import write_card;"
        "p = load_params(Path(sys.argv[1], 'params.yaml'));"
        "write_card(p, Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))"
    )
    folders = (str(path) for path in (project, project / paths.DOCUMENTS, project / paths.TOKENS))
    output = tmp_path / "again.html"
    environment = os.environ | {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "SOURCE_DATE_EPOCH": "1"}
    subprocess.run([sys.executable, "-c", code, *folders, str(output)], check=True, env=environment)
    assert output.read_text(encoding="utf-8") == first


def test_the_card_accounts_for_every_document_and_byte(project: Path, tmp_path: Path) -> None:
    page = Page(write(project, tmp_path / "data.html"))
    assert page.row("read")[0] == "147"
    steps = next(place for place, row in enumerate(page.rows) if row[:1] == ["step"])
    rows = page.rows[
        steps + 1 : next(place for place in range(steps, len(page.rows)) if page.rows[place][0] == "train")
    ]
    numbers = [[int(cell.replace(",", "") or 0) for cell in row[1:5]] for row in rows]
    for before, after in itertools.pairwise(numbers):
        assert [before[0] + after[2], before[1] + after[3]] == after[:2]
    counts = json.loads((project / paths.PREPARE_COUNTS).read_text(encoding="utf-8"))
    assert numbers[-1][:2] == [sum(counts[split][key] for split in SPLITS) for key in ("documents", "bytes")]
    removed = {row[0]: row[3] for row in rows}
    assert removed["exact duplicate"] == "-7"
    shares = [row[5] for row in page.rows[steps + 2 : steps + len(rows) + 4]]
    assert sum(hundredths(share) for share in shares) == 10_000, "what was removed and the splits are all that was read"
    assert counts["contamination"]["test"]["touched"] and counts["cut"]["documents"], "or it tests nothing"
    assert int(removed["cut into pieces"]) == counts["cut"]["pieces"] - counts["cut"]["documents"]


def hundredths(share: str) -> int:
    return round(100 * float(share.removesuffix(" %")))


@given(st.lists(st.integers(-5, 1000), min_size=1, max_size=12))
def test_shares_add_up_to_the_whole(parts: list[int]) -> None:
    whole = sum(parts)
    if whole <= 0:
        return
    shares = [hundredths(share) for share in shares_of(parts, whole)]
    assert sum(shares) == 10_000
    assert all(abs(share - 10_000 * part / whole) < 1 for share, part in zip(shares, parts, strict=True))


def test_shares_of_sources_add_up_to_all_training_tokens(project: Path, tmp_path: Path) -> None:
    page = Page(write(project, tmp_path / "data.html"))
    rows = [row for row in page.rows if row[0] in ("forum", "books") and len(row) == 8]
    assert len(rows) == 2
    assert sum(hundredths(row[6]) for row in rows) == 10_000


def test_a_text_whose_end_is_held_out_is_accounted_for_too(tmp_path: Path) -> None:
    (tmp_path / "input.txt").write_text(
        "".join(f"line {number} of one text\n" for number in range(500)), encoding="utf-8"
    )
    change = small_change(tmp_path / "input.txt")
    change["prepare"] |= {"hold_out": "ends"}
    write_params(tmp_path, change)
    params = load_params(tmp_path / "params.yaml")
    sources.fetch(params.fetch.sources, tmp_path / paths.RAW)
    benchmarks.build_benchmarks(params.fetch.benchmarks, tmp_path / paths.BENCHMARKS)
    prepare_data(tmp_path)
    page = Page(write(tmp_path, tmp_path / "data.html"))
    assert page.row("repaired and trimmed, divided among the splits")[2:4] == ["+2", "0"]
    shares = [row[5] for row in page.rows if row[0] in SPLITS and len(row) == 6]
    assert len(shares) == 3
    assert sum(map(hundredths, shares)) == 10_000


def test_the_card_names_the_data_their_sources_hashes_and_settings(project: Path, tmp_path: Path) -> None:
    page = Page(write(project, tmp_path / "data.html"))
    assert data_id(project / paths.TOKENS) in page.sections[""] + page.sections["Hashes"]
    for name in ("forum", "books"):
        assert page.row(f"source {name}") == [sha256_file(project / f"{name}.jsonl")]
    assert page.row("tokenize.shard_tokens") == ["8192"]
    assert page.row("prepare.deduplicate.exact") == ["true"]
    assert "prepare.engine" not in page.sections["Settings"], "where it ran is no property of the data"
    (books,) = (row for row in page.rows if row[:2] == ["books", SHOWN])
    assert books[2:4] == ["1", "80"]


def test_what_there_is_none_of_is_said_to_be_none(project: Path, tmp_path: Path) -> None:
    page = Page(write(project, tmp_path / "data.html", matches=[], common=[], examples={}))
    assert page.sections["Examples of what was removed"].split() == ["Examples", "of", "what", "was", "removed", "none"]
    matches, common = (
        page.sections["Contamination"].split("Longest matches")[1].split("What many training documents share")
    )
    assert matches.strip() == "none"
    assert common.split()[-1] == "none"


def test_the_command_writes_the_card_and_asks_for_a_report_that_is_missing(
    prepared_project: Path, copy_project: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    copy_project(prepared_project)
    assert main(["data-card"]) == 0
    assert data_id(paths.TOKENS) in paths.DATA_CARD.read_text(encoding="utf-8")
    (paths.DOCUMENTS / "report.json").unlink()
    assert main(["data-card"]) == 2
    assert "report.json: not found; run `gpt prepare`" in capsys.readouterr().err
    params = load_params()
    with pytest.raises(UserError, match="run `gpt prepare`"):
        write_card(params, paths.DOCUMENTS, paths.TOKENS, paths.DATA_CARD)
