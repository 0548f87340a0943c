"""What the keeper tells Prefect of this project, as events that its automations wait for (flows/upkeep/automations.py).

An event is told once for what it is about: its number is made of that, and what Prefect has under that number is not sent again. So
several that watch the same registry tell a decision together once, and so does a keeper that was killed before it could note it.
"""

import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PREFIX = "gpt."
DATA_CHANGED = f"{PREFIX}data.changed"
_NAMESPACE = uuid.UUID("8f0a4f7e-6f0e-4d52-9a6c-3a4c8a0e9d11")


def project_resource(folder: str) -> str:
    """Return the name by which Prefect knows the project in a folder; `*` means all."""
    return f"gpt.project.{folder}"


def make_event(name: str, about: str, message: str, advice: str) -> Any:
    """Return an event of the project in the current folder: what happened, and what to do; `about` is what makes it another one."""
    from prefect.events.schemas.events import Event, Resource

    folder = str(Path.cwd())
    return Event(
        id=uuid.uuid5(_NAMESPACE, f"{name} {about}"),
        occurred=datetime.now(UTC),  # pyright: ignore[reportArgumentType] (pendulum's type is a datetime)
        event=name,
        resource=Resource({"prefect.resource.id": project_resource(folder), "prefect.resource.name": Path.cwd().name}),
        payload={"message": message, "advice": advice},
    )


def send(client: Any, events: list[Any]) -> None:
    """Print events, and give them to Prefect's server; `client` is a synchronous one of Prefect's."""
    if not events:
        return
    asked = {"filter": {"id": {"id": [str(event.id) for event in events]}}, "limit": min(50, len(events))}
    known = {found["id"] for found in client.request("POST", "/events/filter", json=asked).json()["events"]}
    new = [event for event in events if str(event.id) not in known]
    client.request("POST", "/events", json=[event.model_dump(mode="json") for event in new])
    for event in new:
        print(f"{event.event}: {event.payload['message']}", flush=True)
