"""One table says which files can be read, for the readers and for whoever chooses among files."""

import pytest

from gpt.corpus.reading.files import FORMATS
from gpt.errors import UserError
from gpt.sources.kinds import COMPRESSIONS, ENDINGS, choose_kind, format_of


def test_each_format_has_a_reader_and_each_ending_is_known_to_all() -> None:
    assert list(FORMATS) == list(ENDINGS)
    for kind, endings in ENDINGS.items():
        for ending in endings:
            for compression in ("", *COMPRESSIONS):
                known = None if compression and kind in ("parquet", "arrow") else kind
                assert format_of(f"A.b{ending.upper()}{compression}") == known
    assert [format_of(name) for name in ("a.xz", "a.jsonl.xz", "a", ".gz", "a.png")] == [None] * 5


@pytest.mark.parametrize("ending", [".feather", ".ipc", ".htm", ".md", ".tab", ".jsonl.gz"])
def test_every_ending_that_can_be_read_is_chosen(ending: str) -> None:
    chosen = choose_kind("*", {f"data/a{ending}": 10, "README.md": 9, "b.jsonl.xz": 999, ".git/c.txt": 9})
    assert chosen.pattern == f"*{ending}"
    assert set(chosen.files) - {"README.md"} == {f"data/a{ending}"}
    assert chosen.left_out == {".xz": ["b.jsonl.xz"]}


def test_source_code_is_chosen_where_there_is_nothing_else() -> None:
    assert choose_kind("*", {"a.py": 99, "b.csv": 1}).files == ["b.csv"]
    assert choose_kind("*", {"a.py": 99, "b": 1}).files == ["a.py"]
    assert choose_kind("*", {"README.md": 1, "a.json.xz": 9}).files == ["README.md"]
    with pytest.raises(UserError, match=r"holds no file of a type that can be read, but 1 others, such as a\.png"):
        choose_kind("*", {"a.png": 1})
