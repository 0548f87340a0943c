"""How often a run will see each source, told before it begins: a run that would see one too often does not begin."""

from collections.abc import Sequence

from gpt.errors import UserError
from gpt.tokens.batches import Use


def describe_epochs(uses: Sequence[Use], steps: int, block_size: int) -> list[str]:
    """Return a table, a line for each source: its tokens, those that `steps` steps ask for, its share of these, and epochs."""
    total = sum(use.sequences for use in uses)
    rows = [("source", "tokens", "asked for", "share", "epochs")]
    for source, tokens, sequences, epochs in uses:
        share = f"{sequences / max(total, 1):.2%}"
        rows.append((source or "all", f"{tokens:,}", f"{sequences * block_size:,}", share, f"{epochs:.2f}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"training data of {steps:,} steps:"]
    for name, *figures in rows:
        right = (f"{figure:>{width}}" for figure, width in zip(figures, widths[1:], strict=True))
        lines.append("  ".join([f"  {name:<{widths[0]}}", *right]))
    return lines


def check_epochs(uses: Sequence[Use], steps: int, block_size: int, max_epochs: float) -> None:
    """Raise `UserError` if a source would be seen more often than `max_epochs`; 0 allows any number."""
    if excess := describe_excess(uses, block_size, max_epochs, f"{steps:,} steps"):
        lower = "its share in train.mixture, " if uses[0].source else ""
        raise UserError(
            f"params.yaml: train.max_epochs = {max_epochs:g}: {excess}; lower {lower}train.max_steps or train.batch_size, add"
            " documents, or raise train.max_epochs (0: any number)"
        )


def describe_excess(uses: Sequence[Use], block_size: int, max_epochs: float, who: str = "all steps") -> str:
    """Return which sources `who` would see more often than `max_epochs`, with the figures; "" if there are none."""
    return "; ".join(
        f"{f'source {use.source}' if use.source else 'the train split'} has {use.tokens:,} tokens, and {who} ask for"
        f" {use.sequences * block_size:,}: {use.epochs:.2f} epochs"
        for use in uses
        if max_epochs and use.epochs > max_epochs
    )
