"""How far training is, as an artifact of the flow run that waits for it: the page of a run in Prefect shows it move.

The keeper sets it from what the run tells in its journal, so that no server holds up training.
"""

from collections.abc import Iterable
from typing import Any

from flows.upkeep.journals import Run

KEY = "training"


class Progress:
    """The artifacts of flow runs, through a synchronous client of Prefect's."""

    def __init__(self) -> None:
        self._artifacts: dict[str, tuple[str, int]] = {}
        "By flow run: the artifact's number, and the step that it shows."

    def show(self, client: Any, flow_runs: Iterable[Any], runs: list[Run]) -> None:
        """Show the progress of the run that trains on the flow runs that work here; in a workspace that is one of each."""
        if len(runs) != 1 or not (steps := runs[0].settings.get("train.max_steps")):
            return
        run = runs[0]
        for flow_run in flow_runs:
            number, shown = self._artifacts.get(str(flow_run.id), ("", -1))
            if shown == run.step:
                continue
            values = {"data": round(100 * run.step / steps, 1), "description": _describe(run, int(steps))}
            if number:
                client.request("PATCH", "/artifacts/{id}", json=values, path_params={"id": number}).raise_for_status()
            else:
                values |= {"key": KEY, "type": "progress", "flow_run_id": str(flow_run.id)}
                answer = client.request("POST", "/artifacts/", json=values)
                number = answer.raise_for_status().json()["id"]
            self._artifacts[str(flow_run.id)] = (number, run.step)


def _describe(run: Run, steps: int) -> str:
    train, validation = run.rows.get("train", {}), run.rows.get("validation", {})
    figures = [f"step {run.step:,} of {steps:,}"]
    if "train/loss" in train:
        figures.append(f"loss {train['train/loss']:.4f}")
    if "validation/bits_per_byte" in validation:
        figures.append(f"{validation['validation/bits_per_byte']:.4f} bits per byte on validation text")
    if "system/tokens_per_second" in train:
        figures.append(f"{train['system/tokens_per_second']:,.0f} tokens per second")
    return ", ".join(figures)
