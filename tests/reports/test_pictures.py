from pathlib import Path

import pytest
from matplotlib import rc_context

from gpt.reports.evaluation import draw_training
from gpt.reports.pictures import draw_lengths, draw_steps

USERS_STYLE = {"axes.facecolor": "black", "lines.linewidth": 9.0, "font.size": 30.0, "axes.formatter.use_locale": True}


def test_a_style_of_the_users_changes_no_byte_of_a_picture(tmp_path: Path) -> None:
    def draw(name: str) -> tuple[str, str, bytes]:
        for kind in ("train", "validation"):
            (tmp_path / f"{kind}.csv").write_text(f"step,{kind}_loss\n1,2.5\n2,1.5\n")
        draw_training(tmp_path / "train.csv", tmp_path / "validation.csv", tmp_path / name)
        steps = draw_steps([("read", 1200, 0), ("clean", 1000, 200)], "documents")
        return steps, draw_lengths({"a": {3: 1, 4: 2}}, "bytes"), (tmp_path / name).read_bytes()

    plain = draw("plain.png")
    with rc_context(USERS_STYLE):  # pyright: ignore[reportArgumentType]
        assert draw("styled.png") == plain


def test_drawing_leaves_the_users_style_as_it_was() -> None:
    from matplotlib import rcParams

    with rc_context({"lines.linewidth": 9.0}):
        draw_steps([("read", 2, 1)], "documents")
        assert rcParams["lines.linewidth"] == pytest.approx(9.0)
