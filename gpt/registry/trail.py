"""Who was the champion when: MLflow's aliases have no history, so decisions are kept as tags of the registered model."""

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from gpt.errors import UserError
from gpt.registry.versions import CHAMPION

if TYPE_CHECKING:
    from mlflow import MlflowClient

PROMOTED, REFUSED, UNCHANGED, RESTORED, ROLLED_BACK = "promoted", "refused", "unchanged", "restored", "rolled_back"
TRAIL = "promotion."
TIME = "%Y-%m-%dT%H:%M:%S.%fZ"  # sorted as text they are sorted by time
_KEY = re.compile(r"promotion\.\d{4}-\d\d-\d\dT[\d:.]+Z")

Event = dict[str, Any]


def audit_trail(client: "MlflowClient", name: str) -> list[Event]:
    """Return all decisions on a registered model, the oldest first, each with its `time`. Tags of other people are left out."""
    tags = client.get_registered_model(name).tags
    keys = sorted(key for key in tags if _KEY.fullmatch(key))
    return [{"time": key.removeprefix(TRAIL), **json.loads(tags[key])} for key in keys]


def champions_before(trail: list[Event], current: int) -> Iterator[int]:
    """Yield what was the champion before `current`, before that one, and so on. What is set by hand leaves no trail."""
    seen = {current}
    promoted = [event for event in trail if event["verdict"] == PROMOTED]
    if all(event["version"] != current for event in promoted):
        last = last_champion(trail)
        if last is None:
            raise UserError(
                f"nothing records how version {current} became the {CHAMPION}; set the alias in MLflow yourself"
            )
        seen.add(last)
        yield (current := last)
    while True:
        before = next((event["previous_version"] for event in reversed(promoted) if event["version"] == current), None)
        if before is None or before in seen:
            return
        seen.add(before)
        yield (current := before)


def last_champion(trail: list[Event]) -> int | None:
    return next((event["version"] for event in reversed(trail) if event["verdict"] in (PROMOTED, RESTORED)), None)
