"""Prefect's automations: which event is told to whom, and which starts a run. `python -m flows.deploy` applies them.

A notification goes to the Apprise URLs in GPT_NOTIFY, of any service that Apprise knows. Without one the automations are there and
show in Prefect's pages that they fired. What a person has switched off there stays off.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.upkeep.events import DATA_CHANGED, PREFIX, project_resource
from gpt.errors import UserError

if TYPE_CHECKING:
    from prefect.events.schemas.automations import AutomationCore

NOTIFY = "GPT_NOTIFY"
DEPLOYMENT_ON_CHANGE = "pretrain/on-change"  # as in prefect.yaml
_BLOCK = "gpt-notifications"
_TAG = "gpt"  # of the deployments of prefect.yaml
_LATE = timedelta(minutes=30)
_OF_RUN = "{{ flow_run.name }}: {{ flow_run.state.message or flow_run.state.name }}\n{{ flow_run | ui_url }}"
_OF_EVENT = "{{ event.payload.message }}\n{{ event.payload.advice }}"


@dataclass(frozen=True)
class Notice:
    """What is told: when a flow run enters a state, or when the keeper has seen something (flows/upkeep/events.py)."""

    name: str
    description: str
    event: str
    subject: str
    stays: timedelta = timedelta()
    "Told only if the flow run enters no other state within this time."

    @property
    def body(self) -> str:
        """The template of its text."""
        return _OF_EVENT if self.event.startswith(PREFIX) else _OF_RUN


NOTICES = (
    Notice("failed", "A flow run failed; its last words say why.", "prefect.flow-run.Failed", "{{ flow_run.name }} failed"),
    Notice(
        "timed out", "A flow run was stopped at its deadline; the next goes on.", "prefect.flow-run.TimedOut",
        "{{ flow_run.name }} was stopped at its deadline",
    ),
    Notice(
        "crashed", "The process of a flow run is gone; it is started again and goes on.", "prefect.flow-run.Crashed",
        "{{ flow_run.name }} crashed",
    ),
    Notice(
        "late", "A flow run was due half an hour ago, and no worker has taken it.", "prefect.flow-run.Late",
        "{{ flow_run.name }} has waited for half an hour", _LATE,
    ),
    Notice("stalled", "A trainer lives, and has taken no step for long.", f"{PREFIX}training.stalled", "training stalls"),
    Notice("slower", "Throughput fell by a third.", f"{PREFIX}training.slower", "training became slower"),
    Notice("disk nearly full", "The next checkpoints may find no room.", f"{PREFIX}disk.nearly-full", "a disk is nearly full"),
    Notice("promoted", "A version became the champion.", f"{PREFIX}model.promoted", "a version was promoted"),
    Notice("refused", "The gate let the champion be.", f"{PREFIX}model.refused", "a version was refused"),
    Notice("rolled back", "An earlier champion is the champion again.", f"{PREFIX}model.restored", "a model was rolled back"),
)  # fmt: skip


def check_notify() -> None:
    """Raise `UserError` if GPT_NOTIFY holds what Apprise does not understand. The URLs hold secrets: none is shown."""
    if not (urls := os.environ.get(NOTIFY, "").strip()):
        return
    from apprise import Apprise

    if not Apprise().add(urls):
        raise UserError(
            f"{NOTIFY}: not a URL that Apprise understands (it is not shown, as it may hold a token); its documentation lists"
            " one for each service, such as mailto://, slack:// or json://HOST:PORT"
        )


def apply(client: Any) -> str:
    """Create or update what is to be told, and what starts when data change; return one line on where notifications go.

    `client` is a synchronous one of Prefect's.
    """
    from prefect.exceptions import ObjectNotFound

    block = _save_block() if os.environ.get(NOTIFY, "").strip() else None
    told = [_apply_one(client, _notification(notice, block), keeps_actions=block is None) for notice in NOTICES]
    with suppress(ObjectNotFound):  # prefect.yaml need not have it
        _apply_one(client, _run_on_change(client.read_deployment_by_name(DEPLOYMENT_ON_CHANGE).id))
    if block is None and not any(told):
        return f"notifications: none; set {NOTIFY} to an Apprise URL and deploy again"
    return f"notifications: {len(NOTICES)} automations, {'as before' if block is None else f'through {NOTIFY}'}"


def _notification(notice: Notice, block: Any) -> "AutomationCore":
    from prefect.events.actions import DoNothing, SendNotification
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

    of_runs = not notice.event.startswith(PREFIX)
    where: Any = {"match_related": {"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{_TAG}"}}
    trigger: Any = where if of_runs else {"match": {"prefect.resource.id": project_resource("*")}}
    if notice.stays:
        trigger |= {
            "posture": Posture.Proactive, "after": {notice.event}, "expect": {"prefect.flow-run.*"},
            "for_each": {"prefect.resource.id"}, "within": notice.stays,
        }  # fmt: skip
    else:
        trigger |= {"posture": Posture.Reactive, "expect": {notice.event}, "for_each": {"prefect.resource.id"}}
    told = (
        SendNotification(block_document_id=block, subject=f"gpt: {notice.subject}", body=notice.body)
        if block
        else DoNothing()
    )
    return AutomationCore(
        name=f"gpt: {notice.name}",
        description=notice.description,
        tags=[_TAG],
        trigger=EventTrigger.model_validate(trigger),
        actions=[told],
    )


def _run_on_change(deployment: Any) -> "AutomationCore":
    """What brings the model up to date when the files of a source changed: of this project alone."""
    from prefect.events.actions import RunDeployment
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

    trigger: Any = {
        "posture": Posture.Reactive,
        "expect": {DATA_CHANGED},
        "match": {"prefect.resource.id": project_resource(str(Path.cwd()))},
    }
    start = RunDeployment(source="selected", deployment_id=deployment, parameters=None, job_variables=None)
    return AutomationCore(
        name=f"gpt: new data in {Path.cwd()}",
        description="The files of a source have changed: make the model again, and let the gate judge it.",
        tags=[_TAG],
        trigger=EventTrigger.model_validate(trigger),
        actions=[start],
    )


def _apply_one(client: Any, automation: "AutomationCore", keeps_actions: bool = False) -> bool:
    """Create or update an automation; return whether it does something. What was switched off stays off.

    `keeps_actions`: where no URL is named, those who are told by one stay told.
    """
    known = client.read_automations_by_name(automation.name)
    if not known:
        client.create_automation(automation)
    else:
        actions = known[0].actions if keeps_actions else automation.actions
        automation = automation.model_copy(update={"enabled": known[0].enabled, "actions": actions})
        client.update_automation(known[0].id, automation)
    return any(action.type != "do-nothing" for action in automation.actions)


def _save_block() -> Any:
    """Keep the URLs on the server, encrypted as it keeps all secrets of blocks; return the block's number."""
    # Prefect has no block of its own for any URL of Apprise. This one passes all on as they are but Slack's own.
    from prefect.blocks.notifications import SlackWebhook
    from pydantic import SecretStr

    return SlackWebhook(url=SecretStr(os.environ[NOTIFY].strip())).save(_BLOCK, overwrite=True)
