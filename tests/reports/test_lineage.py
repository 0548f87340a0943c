"""The chain from sources to a model, as lines and as a picture: whatever stands in a record is text there."""

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from gpt.errors import UserError
from gpt.reports.lineage import describe_lineage, draw_lineage, write_picture

SVG = "{http://www.w3.org/2000/svg}"


def record(sources: int = 1) -> dict[str, Any]:
    return {
        "model": {"weights_sha256": "a" * 64, "tokenizer_sha256": "b" * 64, "bits_per_byte": {"test": 2.11559}},
        "training": {
            "fingerprint": "14ba", "seed": 7, "precision": "fp32", "processes": 2, "threads": 2,
            "hardware": "2 x <AMD> EPYC & co, threads: 2",
        },
        "parents": {"run_id": "run1", "champion": {"version": 3, "run_id": "r", "weights_sha256": "c" * 64}, "adopted": []},
        "data": {"data_sha256": "d" * 64, "test_documents_sha256": "e" * 64, "contaminated_items": "piqa 2/9"},
        "sources": [
            {"name": f"s{number}", "role": "text", "kind": "url", "address": f"https://host/{number}.txt?a&b",
             "sha256": "f" * 64, "licence": "CC-BY <4.0>"}
            for number in range(sources)
        ],
        "code": {"commit": "1" * 40, "dirty": True, "sha256": "2" * 64, "gpt": "0.1"},
        "params_sha256": "3" * 64,
        "stages": {"prepare": {"deps": {}, "params": {}, "outs": {"data/documents": {"hash": "9" * 32 + ".dir", "size": 1}}}},
        "locks": {"requirements.lock": "4" * 64},
        "environment": {"python": "3.11.7", "packages": {"torch": "2.13.0", "ftfy": "6"}},
    }  # fmt: skip


def texts(svg: str) -> str:
    return " ".join(element.text or "" for element in ET.fromstring(svg).iter(f"{SVG}text"))


def test_the_lines_lead_from_the_model_to_each_sources_address_licence_and_hash() -> None:
    lines = describe_lineage(record(sources=12), "models:/m/1").splitlines()
    said = "\n".join(lines)
    assert lines[0] == "models:/m/1"
    places = [
        said.index(word) for word in ("weights aaaaaaaaaaaa", "← training", "← tokens", "← documents", "← sources")
    ]
    assert places == sorted(places)
    for number in range(12):
        assert f"s{number}: https://host/{number}.txt?a&b" in said
    assert said.count("sha256 ffffffffffff, licence: CC-BY <4.0>") == 12
    assert "data/documents 999999999999" in said
    assert "commit 111111111111 with uncommitted.patch" in said
    assert "version 3, weights cccccccccccc" in said


def test_the_picture_is_well_formed_text_of_the_pages_colour_and_nothing_leaves_its_box() -> None:
    svg = draw_lineage(record())
    root = ET.fromstring(svg)
    said = texts(svg)
    assert "2 x <AMD> EPYC & co, threads: 2" in said
    assert "CC-BY <4.0>" in said
    assert "<style" not in svg, "in a page it takes the page's colours"
    boxes = [{key: float(box.get(key, "")) for key in ("x", "y", "width", "height")} for box in root.iter(f"{SVG}rect")]
    assert len(boxes) == 9
    for text in root.iter(f"{SVG}text"):
        x, y, width = float(text.get("x", "")), float(text.get("y", "")), 6.6 * len(text.text or "")
        assert any(
            box["x"] <= x and x + width <= box["x"] + box["width"] + 1 and box["y"] < y < box["y"] + box["height"]
            for box in boxes
        ), text.text
    height = float(root.get("viewBox", "").split()[3])
    assert all(box["y"] + box["height"] < height for box in boxes)
    assert draw_lineage(record()) == svg, "the same bytes"


def test_of_many_sources_the_picture_shows_some_and_says_how_many_more() -> None:
    said = texts(draw_lineage(record(sources=30)))
    assert "s7" in said
    assert "s8:" not in said
    assert "and 22 more" in said


def test_a_picture_by_itself_is_dark_where_the_screen_is(tmp_path: Path) -> None:
    write_picture(record(), tmp_path / "chain.svg")
    svg = (tmp_path / "chain.svg").read_text()
    assert "prefers-color-scheme: dark" in svg
    ET.fromstring(svg)
    with pytest.raises(UserError, match=r"ends with \.svg"):
        write_picture(record(), tmp_path / "chain.pdf")
    assert [path.name for path in tmp_path.iterdir()] == ["chain.svg"]
