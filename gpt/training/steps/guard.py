"""Which steps are skipped because they would do harm: loss or gradient is not finite, or far above what the last steps had."""

from dataclasses import asdict, dataclass
from typing import Any

import torch

# Of OLMo 2 (2024), which skips by the standard deviations of the last 128 steps too. It is their logarithms here: losses and norms
# are skewed, and a norm half as large again as usual harms nothing, but is eight standard deviations away late in training.
_WINDOW = 128
_FEWEST = 64


@dataclass(frozen=True)
class StepCounts:
    """How many steps were taken and skipped so far, how many of the newest in a row were skipped, and the most in a row.

    Steps skipped before training went back are not in a row with those after it.
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
        # Logarithms of the last good steps' losses and norms: step n of them is in row n modulo 128.
        self._window = torch.zeros(_WINDOW, 2, dtype=torch.float64, device=device)
        # As `StepCounts` names them.
        self._counts = torch.zeros(4, dtype=torch.int64, device=device)

    def is_bad(self, loss: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
        """Judge a step by its loss and its gradient's norm before clipping, scalars; return a bool scalar, and count it."""
        new = torch.stack([loss.double(), norm.double()]).clamp(min=1e-12).log()
        taken, skipped, in_a_row, longest = self._counts.unbind()
        bad = ~new.isfinite().all()
        if self._sigma:
            filled = taken.clamp(1, _WINDOW)
            mean = self._window.sum(0) / filled
            variance = (self._window.square().sum(0) / filled - mean.square()).clamp(min=0)
            bad = bad | ((taken >= _FEWEST) & (new > mean + self._sigma * variance.sqrt()).any())
        place = (taken % _WINDOW).view(1)
        self._window.index_copy_(0, place, torch.where(bad, self._window.index_select(0, place), new))
        in_a_row = torch.where(bad, in_a_row + 1, 0)
        self._counts = torch.stack([taken + ~bad, skipped + bad, in_a_row, torch.maximum(longest, in_a_row)])
        return bad

    def counts(self) -> StepCounts:
        """Return the counts; waits for the device."""
        return StepCounts(*self._counts.tolist())

    def go_on_after(self, skipped: int) -> None:
        """Set the skipped steps to `skipped` in all, with none in a row: training went back from where there were so many."""
        self._counts[1:] = torch.tensor([skipped, 0, 0])

    def state_dict(self) -> dict[str, Any]:
        """Return everything as JSON values; waits for the device."""
        return {"window": self._window.tolist(), "counts": asdict(self.counts())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self._window = torch.tensor(state["window"], dtype=torch.float64, device=self._window.device)
        counts = StepCounts(**state["counts"])  # by name, whatever order the file has them in
        self._counts = torch.tensor(list(asdict(counts).values()), dtype=torch.int64, device=self._counts.device)
