"""Draw what attention looks at: the pictures of docs/attention.md.

    python -m docs.attention_maps --model models/base --text "To be, or not to be, that is the question"

The maps are weights that the four modules of gpt/model/attention.py give back; none is an illustration.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from gpt.errors import UserError
from gpt.evaluation.attention import attention_weights, spread, token_names
from gpt.model.attention import CausalAttention, MultiHeadAttention, SelfAttention, SimplifiedSelfAttention
from gpt.model.storage import load_model
from gpt.model.transformer import GPTModel
from gpt.tokens.encoding import Encoding

WORDS = ["Your", "journey", "starts", "with", "one", "step"]
EMBEDDINGS = torch.tensor(
    [[0.43, 0.15, 0.89], [0.55, 0.87, 0.66], [0.57, 0.85, 0.64], [0.22, 0.58, 0.33], [0.77, 0.25, 0.10], [0.05, 0.80, 0.55]]
)  # fmt: skip
"The book's example (section 3.3.1)."
MOST_LAYERS, MOST_HEADS = 4, 6
"Maps of more are too small to read; of a deeper or wider model every so many are drawn."

# Small weights are most of them: the square root keeps them apart.
_SCALE = PowerNorm(0.5, vmin=0, vmax=1)
_FUTURE = "#eeeeee"


def main(arguments: list[str] | None = None) -> int:
    """Draw the three pictures; return the exit code."""
    parser = argparse.ArgumentParser(description="Draw the pictures of docs/attention.md.")
    parser.add_argument("--model", type=Path, default=Path("models/base"), help="model folder (models/base)")
    parser.add_argument("--text", default="To be, or not to be, that is the question", help="what the model reads")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "images", help="folder of the pictures")
    options = parser.parse_args(arguments)
    try:
        model, encoding = load_model(options.model)
        names, weights = read_weights(model, encoding, options.text)
        options.output.mkdir(parents=True, exist_ok=True)
        figures = {"four": draw_four(), "heads": draw_heads(names, weights), "habits": draw_habits(names, weights)}
        for name, figure in figures.items():
            path = options.output / f"attention_{name}.png"
            FigureCanvasAgg(figure).print_png(str(path), metadata={"Software": None})
            print(path)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(
            f"error: {error.filename}: {error.strerror}; name a folder that can be written with --output",
            file=sys.stderr,
        )
        return 2
    return 0


def read_weights(model: GPTModel, encoding: Encoding, text: str) -> tuple[list[str], torch.Tensor]:
    """Return the names of a text's T tokens and all weights (n_layer, n_head, T, T) with which a model reads them.

    Raises `UserError` if the text does not fit into the model's context.
    """
    tokens = [encoding.eot_token, *encoding.encode_ordinary(text)]  # every document of the training data begins so
    if not 3 <= len(tokens) <= model.config.block_size:
        raise UserError(
            f"--text: {len(tokens) - 1} tokens; give 2 to {model.config.block_size - 1}, what the model can read"
        )
    return token_names(encoding, tokens), attention_weights(model, tokens)


@torch.no_grad()
def draw_four() -> Figure:
    """Draw the book's six tokens through the four attentions, seeded as in the book."""
    torch.manual_seed(789)
    learned = SelfAttention(3, 2)
    causal = CausalAttention(3, 2, context_length=6, dropout=0.0)
    causal.load_state_dict(learned.state_dict())
    torch.manual_seed(123)
    multi = MultiHeadAttention(3, 2, context_length=6, dropout=0.0, num_heads=2)
    heads = multi(EMBEDDINGS[None], return_weights=True)[1][0]
    maps = {
        "1  SimplifiedSelfAttention": SimplifiedSelfAttention()(EMBEDDINGS, return_weights=True)[1],
        "2  SelfAttention": learned(EMBEDDINGS, return_weights=True)[1],
        "3  CausalAttention": causal(EMBEDDINGS[None], return_weights=True)[1][0],
        "4  MultiHeadAttention, head 1": heads[0],
        "4  MultiHeadAttention, head 2": heads[1],
    }
    figure = Figure(figsize=(11, 7.6), dpi=90)
    figure.set_layout_engine("constrained", h_pad=0.12)  # inches
    panels = figure.subplots(2, 3).flat
    image = None
    for panel, (title, weights) in zip(panels, maps.items(), strict=False):
        image = _draw_map(panel, weights, masked=title[0] in "34")
        _name_tokens(panel, WORDS, WORDS)
        for row, column in torch.cartesian_prod(torch.arange(6), torch.arange(6)).tolist():
            if (weight := weights[row, column].item()) > 0:
                ink = "white" if weight > 0.35 else "black"
                panel.text(column, row, f"{weight:.2f}", ha="center", va="center", fontsize=8.5, color=ink)
        panel.set_title(title, fontsize=11, fontweight="bold")
    legend = figure.axes[-1]
    legend.set_axis_off()
    legend.text(0.5, 0.66, "A row is a token that looks,\na column what it looks at.", ha="center", fontsize=11)
    legend.text(0.5, 0.52, "Every row adds up to 1.", ha="center", fontsize=11)
    assert image is not None
    bar = figure.colorbar(image, cax=legend.inset_axes((0.1, 0.38, 0.8, 0.05)), orientation="horizontal")
    _name_bar(bar.ax)
    return figure


def draw_heads(names: Sequence[str], weights: torch.Tensor) -> Figure:
    """Draw layers under each other and heads side by side."""
    layers, heads = spread(weights.shape[0], MOST_LAYERS), spread(weights.shape[1], MOST_HEADS)
    figure = Figure(figsize=(1.75 * len(heads) + 0.8, 1.75 * len(layers) + 0.8), dpi=100, layout="constrained")
    panels = figure.subplots(len(layers), len(heads), squeeze=False)
    for row, layer in enumerate(layers):
        for column, head in enumerate(heads):
            panel = panels[row, column]
            _draw_map(panel, weights[layer, head], masked=True)
            _name_tokens(panel, [], names if column == 0 else [], size=5.5)
            if column == 0:
                panel.set_ylabel(f"layer {layer + 1}", fontsize=10, fontweight="bold")
            if row == 0:
                panel.set_title(f"head {head + 1}", fontsize=10, fontweight="bold")
    return figure


def draw_habits(names: Sequence[str], weights: torch.Tensor) -> Figure:
    """Draw the heads that keep most to each of four habits, with the share of weight that goes there."""
    share = weights[:, :, 2:]  # before the third token the habits cannot be told apart
    positions = torch.arange(2, weights.shape[-1])
    entropy = -torch.xlogy(share, share).sum(-1) / (positions + 1).log()
    habits: dict[str, Callable[[], torch.Tensor]] = {
        "the token before": lambda: share[..., positions - 2, positions - 1],
        "itself": lambda: share[..., positions - 2, positions],
        "the start": lambda: share[..., 0],
        "everything": lambda: entropy,
    }
    figure = Figure(figsize=(10, 10.4), dpi=100, layout="constrained")
    for panel, (habit, measure) in zip(figure.subplots(2, 2).flat, habits.items(), strict=True):
        kept = measure().mean(dim=-1)  # (n_layer, n_head)
        layer, head = divmod(int(kept.argmax()), kept.shape[1])
        _draw_map(panel, weights[layer, head], masked=True)
        _name_tokens(panel, names, names, size=9)
        unit = "of the entropy of an even look" if habit == "everything" else "of its weight"
        panel.set_title(f"{habit}\n", fontsize=12, fontweight="bold")
        detail = f"layer {layer + 1}, head {head + 1}: {kept[layer, head]:.0%} {unit}"
        panel.text(0.5, 1.02, detail, transform=panel.transAxes, ha="center", fontsize=9.5, color="#444444")
    return figure


def _draw_map(panel: Axes, weights: torch.Tensor, masked: bool) -> AxesImage:
    """Draw weights (T, T); `masked`: what lies in the future is grey and not white."""
    length = len(weights)
    panel.set_facecolor(_FUTURE)
    hidden = (
        torch.ones(length, length, dtype=torch.bool).triu(1)
        if masked
        else torch.zeros(length, length, dtype=torch.bool)
    )
    image = panel.imshow(weights.masked_fill(hidden, torch.nan), cmap="Blues", norm=_SCALE)
    panel.set_xticks([])
    panel.set_yticks([])
    for side in panel.spines.values():
        side.set_color("#bbbbbb")
    return image


def _name_tokens(panel: Axes, columns: Sequence[str], rows: Sequence[str], size: float = 9) -> None:
    # A dollar sign would begin a formula.
    panel.set_xticks(range(len(columns)), [name.replace("$", r"\$") for name in columns], rotation=90, fontsize=size)
    panel.set_yticks(range(len(rows)), [name.replace("$", r"\$") for name in rows], fontsize=size)
    panel.tick_params(length=0)


def _name_bar(bar: Axes) -> None:
    ticks = (0, 0.05, 0.2, 0.5, 1)
    bar.set_xticks(ticks, [f"{tick:g}" for tick in ticks], fontsize=9)
    bar.set_title("attention weight", fontsize=9)


if __name__ == "__main__":
    sys.exit(main())
