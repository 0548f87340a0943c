"""What a text is told to be: counted by the readers of prepare, in any form and language."""

import csv
import gzip
import json
import random
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest

from gpt.errors import UserError
from gpt.params.corpus import Prepare
from gpt.params.project import load_params
from gpt.projects import survey as module
from gpt.projects.survey import choose_prompts, survey
from tests import ROOT

GERMAN = ["Der Fuchs läuft über das Feld.", "Am Abend schläft er.", "Die Gänse schreien laut.", "Es regnet seit Tagen."]


@pytest.fixture(scope="module")
def settings() -> Prepare:
    return load_params(ROOT / "params.yaml").prepare


def test_a_folder_of_texts_is_counted_as_prepare_reads_it(tmp_path: Path, settings: Prepare) -> None:
    for number, text in enumerate(GERMAN):
        (tmp_path / f"{number}.txt").write_text(text, encoding="utf-8")
    (tmp_path / ".hidden.txt").write_text("not counted", encoding="utf-8")
    found = survey(tmp_path, settings)
    assert (found.files, found.documents, found.is_estimate, found.read) == (4, 4, False, {})
    assert found.characters == sum(map(len, GERMAN))
    assert found.text_bytes == sum(len(text.encode()) for text in GERMAN) > found.characters
    assert sorted(found.sample) == sorted(GERMAN)


def test_the_mark_between_documents_is_seen(tmp_path: Path, settings: Prepare) -> None:
    (tmp_path / "stories.txt").write_text("\n<|endoftext|>\n".join(GERMAN), encoding="utf-8")
    found = survey(tmp_path / "stories.txt", settings)
    assert found.read == {"read.separator": "<|endoftext|>"}
    assert found.documents == 4


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".json", ".csv", ".tsv", ".parquet", ".arrow"])
def test_the_field_with_most_text_is_taken_where_none_is_called_text(
    tmp_path: Path, settings: Prepare, ending: str
) -> None:
    rows = [{"id": str(number), "story": text, "stars": 3} for number, text in enumerate(GERMAN)]
    path = tmp_path / f"stories{ending}"
    if ending == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif ending == ".arrow":
        pyarrow.feather.write_feather(pyarrow.Table.from_pylist(rows), path, compression="uncompressed")
    elif ending == ".json":
        path.write_text(json.dumps(rows, indent=2), encoding="utf-8")
    elif ending in (".csv", ".tsv"):
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0], delimiter="," if ending == ".csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)
    else:
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(data) if ending.endswith(".gz") else data)
    found = survey(path, settings)
    assert found.read == {"read.text_field": "story"}
    assert found.documents == 4
    assert set(found.sample) == set(GERMAN)


@pytest.mark.parametrize("names", [("role", "content"), ("from", "value")])
def test_a_chat_is_its_messages(tmp_path: Path, settings: Prepare, names: tuple[str, str]) -> None:
    who, what = names
    chats = [{"id": "long " * 50, "messages": [{who: "a", what: text}, {who: "b", what: "Ja."}]} for text in GERMAN]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats), encoding="utf-8")
    found = survey(tmp_path / "chats.jsonl", settings)
    assert found.read == {"read.text_field": "messages", "read.message": f"{{{who}}}: {{{what}}}"}
    assert f"a: {GERMAN[0]}\nb: Ja." in found.sample


def test_a_field_called_text_is_taken_whatever_else_is_longer(tmp_path: Path, settings: Prepare) -> None:
    rows = [{"text": text, "html": text * 5} for text in GERMAN]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = survey(tmp_path / "a.jsonl", settings)
    assert found.read == {}
    assert set(found.sample) == set(GERMAN)


def test_a_text_file_of_any_name_is_text_and_a_large_one_is_one_document(tmp_path: Path, settings: Prepare) -> None:
    small = settings.model_copy(update={"max_document_bytes": 50})
    (tmp_path / "README").write_text("\n".join(GERMAN), encoding="utf-8")
    found = survey(tmp_path / "README", small)
    assert found.read == {"read.format": "text", "max_document_bytes": 10_000_000}
    assert found.documents == 1


def test_of_much_text_a_part_is_read_and_the_rest_estimated(
    tmp_path: Path, settings: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(50):
        (tmp_path / f"{number}.txt").write_text(f"{number}: {GERMAN[number % 4]}" * 20, encoding="utf-8")
    whole = survey(tmp_path, settings)
    monkeypatch.setattr(module, "ENOUGH_BYTES", whole.text_bytes // 5)
    part = survey(tmp_path, settings)
    assert part.is_estimate
    assert len(part.sample) < 20
    assert part.documents == pytest.approx(50, rel=0.1)
    assert part.text_bytes == pytest.approx(whole.text_bytes, rel=0.1)
    assert part.sample == survey(tmp_path, settings).sample, "always the same part"


def test_the_table_of_byte_pairs_is_the_entropy_of_a_byte_after_another(tmp_path: Path, settings: Prepare) -> None:
    coins = random.Random(0).choices("ab", k=40_000)
    (tmp_path / "coins.txt").write_text("".join(coins), encoding="utf-8")
    assert survey(tmp_path / "coins.txt", settings).table_bits_per_byte == pytest.approx(1.0, abs=0.01)
    (tmp_path / "coins.txt").write_text("ab" * 20_000, encoding="utf-8")
    assert survey(tmp_path / "coins.txt", settings).table_bits_per_byte == pytest.approx(0.0, abs=0.001)
    noise = np.random.default_rng(0).integers(0, 128, 400_000).astype(np.uint8)
    assert 6.8 < module._conditional_entropy(module._pairs(noise.tobytes())) < 7.0


def test_prompts_are_beginnings_of_documents_or_of_lines() -> None:
    assert set(choose_prompts(GERMAN * 5, 3)) <= {" ".join(text.split()[:4]) for text in GERMAN}
    lines = choose_prompts(["\n".join(GERMAN)], 3)
    assert len(lines) == 3
    assert set(lines) <= {" ".join(text.split()[:4]) for text in GERMAN}
    assert choose_prompts(["吾輩は猫である名前はまだ無いどこで生れたか頓と見当がつかぬ何でも薄暗い" * 3] * 9, 1) == [
        "吾輩は猫である名前はまだ"
    ]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "is a folder without files"),
        ({"a.txt": b""}, "is empty"),
        ({"a.txt": b" \n\n "}, "hold no text"),
        ({"a.png": b"\x89PNG\r\n\x1a\n\x00\x00" * 50, "b.txt": b"text"}, r"a\.png: files of type '\.png'"),
        ({"a.txt": b"\x89PNG\r\n\x1a\n\x00\x00\xff\xfe" * 50}, r"a\.txt.*(not UTF-8|NUL bytes)"),
        ({"a.jsonl": b'{"text": "a"}\n{"text": \n'}, r"a\.jsonl: line 2.*not valid JSON"),
        ({"a.jsonl": b'{"stars": 1}\n{"stars": 2}\n'}, r"a\.jsonl"),
    ],
)
def test_what_is_no_text_is_one_message_with_the_users_own_path(
    tmp_path: Path, settings: Prepare, files: dict[str, bytes], message: str
) -> None:
    (tmp_path / "texts").mkdir()
    for name, content in files.items():
        (tmp_path / "texts" / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        survey(tmp_path / "texts", settings)
    assert str(caught.value).startswith(f"--data {tmp_path / 'texts'}")
    assert "\n" not in str(caught.value)


def test_a_path_that_is_not_there_is_told(tmp_path: Path, settings: Prepare) -> None:
    with pytest.raises(UserError, match="not found; name a file, a folder, or hf://OWNER/NAME"):
        survey(tmp_path / "nothing", settings)


def test_links_are_followed_as_fetch_does_but_in_no_circle(tmp_path: Path, settings: Prepare) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a.txt").write_text(GERMAN[0], encoding="utf-8")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "texts/self").symlink_to(".")
    found = survey(tmp_path / "texts", settings)
    assert (found.files, found.sample) == (1, [GERMAN[0]])
    (tmp_path / "texts/gone.txt").symlink_to("nothing")
    with pytest.raises(UserError, match=r"--data .*gone\.txt: is a link that leads nowhere"):
        survey(tmp_path / "texts", settings)


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
@pytest.mark.parametrize("column", ["text", "story"])
def test_a_table_with_other_signs_between_its_columns_is_read_by_them(
    tmp_path: Path, settings: Prepare, delimiter: str, column: str
) -> None:
    """As spreadsheets write it: a byte order mark, CRLF, quotation marks around what holds the sign."""
    with (tmp_path / "a.csv").open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([["id", column], *([number, f"{text}{delimiter} x, y"] for number, text in enumerate(GERMAN))])
    found = survey(tmp_path / "a.csv", settings)
    assert found.read.get("read.delimiter") == delimiter
    assert set(found.sample) == {f"{text}{delimiter} x, y" for text in GERMAN}


@pytest.mark.parametrize("header", ["text", "what; is; said", "a,text"])
def test_a_comma_stays_what_it_is_in_a_table(tmp_path: Path, settings: Prepare, header: str) -> None:
    before = "1," if "," in header else ""
    rows = [f"{before}Eins; zwei; {text}" if number else f"{before}{text}" for number, text in enumerate(GERMAN)]
    (tmp_path / "a.csv").write_text("\n".join([header, *rows]), encoding="utf-8")
    found = survey(tmp_path / "a.csv", settings)
    assert "read.delimiter" not in found.read
    assert GERMAN[0] in found.sample


@pytest.mark.parametrize("ending", [".json", ".jsonl", ".parquet"])
def test_a_text_in_an_object_and_a_list_of_strings_are_found(tmp_path: Path, settings: Prepare, ending: str) -> None:
    for field, value in (("body.said", {"said": "{}", "by": "x"}), ("body", ["{}", "{}"])):
        rows = [{"id": "7", "body": json.loads(json.dumps(value).replace("{}", text))} for text in GERMAN]
        path = tmp_path / f"a{ending}"
        if ending == ".parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        else:
            path.write_text(
                json.dumps(rows) if ending == ".json" else "\n".join(map(json.dumps, rows)), encoding="utf-8"
            )
        found = survey(path, settings)
        assert found.read == {"read.text_field": field}
        assert any(GERMAN[0] in text for text in found.sample)
