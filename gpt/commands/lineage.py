"""Commands that say where a registered model comes from, and make it again."""

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gpt.commands.line.arguments import MODEL, VERSION, FromHere
from gpt.commands.line.command import command
from gpt.entry import tell
from gpt.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


@command(
    examples=[
        "gpt lineage  # of the candidate",
        "gpt lineage @champion --picture champion.svg",
        "gpt lineage models:/shakespeare-gpt/3 --json",
    ]
)
@click.argument(
    "model",
    type=MODEL,
    default="@candidate",
    metavar="MODEL",
    help="models:/NAME/VERSION, models:/NAME@ALIAS, @ALIAS, or a folder that a registered model was downloaded to"
    " (default: @candidate)",
)
@click.option("--json", "json_", is_flag=True, help="print the whole record as JSON")
@click.option("--picture", type=FromHere(), metavar="FILE", help="draw the chain into an SVG file, too")
def lineage(model: str, json_: bool, picture: Path | None) -> int:
    """say what a registered version was made from, down to each source"""
    from gpt.params.project import load_params
    from gpt.registry.record import find_folder, read_folder, read_record
    from gpt.registry.versions import find_version, is_registry_uri
    from gpt.reports.lineage import describe_lineage, write_picture
    from gpt.tracking import store

    if is_registry_uri(model):
        name = load_params().register_.name
        client = store.existing_client()
        with store.store_errors():
            version = find_version(client, model, name)
            record = read_record(client, version).values
            head, tags = _describe_version(client, version), _other_tags(version)
    else:
        folder = find_folder(Path(model))
        record, head, tags = read_folder(folder).values, str(folder), []
    if picture:
        write_picture(record, picture)
    if json_:
        print(json.dumps(record, indent=2, ensure_ascii=False))
    else:
        print("\n".join([describe_lineage(record, head), *tags]))
    return 0


@command(
    examples=[
        "gpt reproduce  # the champion",
        "gpt reproduce @champion --compare  # what differs now; nothing runs",
        "gpt reproduce models:/shakespeare-gpt/3 --keep",
    ],
    notes="The version's commit is checked out into .dvc/tmp/reproduce, and every stage runs there; the project itself is left as"
    " it is. Started again after a stop, it goes on. Packages are compared, not installed. Exit codes: 0 identical, 1 differs.",
)
@click.argument(
    "model",
    type=VERSION,
    default="@champion",
    metavar="MODEL",
    help="models:/NAME/VERSION, models:/NAME@ALIAS or @ALIAS (default: @champion)",
)
@click.option("--compare", is_flag=True, help="only say what differs from the record now; run nothing")
@click.option("--keep", is_flag=True, help="leave the folder in which it was made again")
@click.option("--json", "json_", is_flag=True, help="print the verdict as JSON in the last line")
def reproduce(model: str, compare: bool, keep: bool, json_: bool) -> int:
    """make a registered version again from its record, and compare it stage by stage"""
    from gpt.params.project import load_params
    from gpt.registry.record import read_record
    from gpt.registry.reproduction.changes import find_changes
    from gpt.registry.reproduction.reproduce import note
    from gpt.registry.reproduction.reproduce import reproduce as make_again
    from gpt.registry.reproduction.stages import StageFailed
    from gpt.registry.versions import find_version
    from gpt.tracking import store

    name = load_params().register_.name
    client = store.existing_client()
    with store.store_errors():
        version = find_version(client, model, name)
        record = read_record(client, version)
    if recipe := record.values.get("recipe"):
        raise UserError(
            f"models:/{version.name}/{version.version}: was fine-tuned, which this command does not make again; at its commit,"
            f" `python -m flows.finetune {recipe['name']}` does, from the base model that `gpt lineage` names"
        )
    uri, project = f"models:/{version.name}/{version.version}", Path.cwd()
    changes = find_changes(record, project)
    if compare:
        print(changes.describe(uri))
        return 1 if changes.deciding else 0
    if changed := changes.announce():
        print(changed)
    try:
        verdict = make_again(project, uri, record, keep=keep, tell=lambda line: print(line, flush=True))
    except StageFailed as failure:
        tell(str(failure))
        return 2 if failure.exit_code == 2 else 1
    print(verdict.describe(), flush=True)
    try:
        with store.store_errors():
            note(client, version, verdict)
    except UserError as error:
        logging.getLogger(__name__).warning("the verdict is not recorded with %s: %s", uri, error)
    if json_:
        print(verdict.to_json())
    return 0 if verdict.identical else 1


def _describe_version(client: "MlflowClient", version: "ModelVersion") -> str:
    """Return a version's name, the aliases that it holds and since when it is there."""
    aliases = client.get_registered_model(version.name).aliases
    held = [f"@{alias}" for alias, number in sorted(aliases.items()) if int(number) == int(version.version)]
    made = datetime.fromtimestamp(version.creation_timestamp / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return "  ".join([f"models:/{version.name}/{version.version}", *held, f"registered {made}"])


def _other_tags(version: "ModelVersion") -> list[str]:
    """Return what else is said of a version, as what was decided about it: the tags that the record does not hold."""
    from dataclasses import fields

    from gpt.registry.lineage import CONTINUES, STARTED_FROM, Lineage
    from gpt.registry.reproduction.reproduce import REPRODUCED
    from gpt.secrets.hiding import redact

    others = {"lineage", "test_bits_per_byte", "validation_bits_per_byte"}
    others |= {STARTED_FROM, CONTINUES, "recipe", "task", "figure"}  # the chain names them
    others |= {"adopted", "torch"}  # of earlier releases
    known = {field.name for field in fields(Lineage)} | others
    tags = {
        name: value
        for name, value in sorted(version.tags.items())
        if name not in known and not name.startswith(f"{REPRODUCED}.")  # the last verdict is told in words
    }
    width = max(map(len, tags), default=0)
    return [f"{name:<{width}}  {redact(value)}" for name, value in tags.items()]
