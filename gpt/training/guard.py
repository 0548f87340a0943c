"""Steps that would do harm are not taken: a loss or a gradient that is not finite, or far above what the last steps had."""

from dataclasses import asdict, dataclass
from typing import Any

import torch

# Of OLMo 2 (2024), which skips by the standard deviations of the last 128 steps too. It is their logarithms here: losses and norms
# are skewed, and a norm half as large again as usual harms nothing, but is eight standard deviations away late in training.
_WINDOW = 128
_FEWEST = 64


@dataclass(frozen=True)
class Verdicts:
    """How many steps were taken and skipped so far, how many of the newest were skipped, and the most in a row.

    What was skipped before training went back is not in a row with what comes after.
    """

    taken: int
    skipped: int
    in_a_row: int
    most_in_a_row: int


class Guard:
    """Judges steps on `device` without making the host wait for it.

    A step is bad if its loss or its gradient's norm is not finite, or its logarithm exceeds the mean of those of the last 128 good
    steps by more than `sigma` standard deviations (once there were 64; 0: however large). Nothing but the steps so far decides, so
    a resumed run judges alike.
    """

    def __init__(self, sigma: float, device: torch.device) -> None:
        self._sigma = sigma
        self._seen = torch.zeros(_WINDOW, 2, dtype=torch.float64, device=device)
        # As `Verdicts` names them.
        self._counts = torch.zeros(4, dtype=torch.int64, device=device)

    def is_bad(self, loss: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
        """Judge a step by its loss and its gradient's norm before clipping, scalars; return a bool scalar, and count it."""
        new = torch.stack([loss.double(), norm.double()]).clamp(min=1e-12).log()
        taken, skipped, in_a_row, longest = self._counts.unbind()
        bad = ~new.isfinite().all()
        if self._sigma:
            filled = taken.clamp(1, _WINDOW)
            mean = self._seen.sum(0) / filled
            variance = (self._seen.square().sum(0) / filled - mean.square()).clamp(min=0)
            bad = bad | ((taken >= _FEWEST) & (new > mean + self._sigma * variance.sqrt()).any())
        place = (taken % _WINDOW).view(1)
        self._seen.index_copy_(0, place, torch.where(bad, self._seen.index_select(0, place), new))
        in_a_row = torch.where(bad, in_a_row + 1, 0)
        self._counts = torch.stack([taken + ~bad, skipped + bad, in_a_row, torch.maximum(longest, in_a_row)])
        return bad

    def read(self) -> Verdicts:
        """Return the counts; waits for the device."""
        return Verdicts(*self._counts.tolist())

    def forget_row(self, skipped: int) -> None:
        """Begin a new row: training went back from where `skipped` steps in all had been skipped."""
        self._counts[1:] = torch.tensor([skipped, 0, 0])

    def state(self) -> dict[str, Any]:
        """Return everything as JSON values; waits for the device."""
        return {"seen": self._seen.tolist(), "verdicts": asdict(self.read())}

    def load_state(self, state: dict[str, Any]) -> None:
        """Put back what `state` returned."""
        self._seen = torch.tensor(state["seen"], dtype=torch.float64, device=self._seen.device)
        self._counts = torch.tensor(list(state["verdicts"].values()), dtype=torch.int64, device=self._counts.device)
