"""`gpt gc`: room that is taken by what nobody needs any more. It shows; `--apply` removes."""

import json

import click

from gpt.commands.line.arguments import at_least
from gpt.commands.line.command import command


@command(
    examples=["gpt gc", "gpt gc --keep-days 7 --keep-versions 2", "gpt gc --apply"],
    notes="Never: a version with an alias, a former champion, what these were made from, what params.yaml, a branch, a tag, a stash"
    " or an experiment names, what a living process holds, what is not delivered yet.",
)
@click.option("--apply", "apply_", is_flag=True, help="remove what is shown without it")
@click.option(
    "--keep-days", type=at_least(float, 0), default=30, metavar="N", help="keep what is younger (default: 30 days)"
)
@click.option(
    "--keep-versions",
    type=at_least(int, 0),
    default=5,
    metavar="N",
    help="keep so many newest versions of each registered model (default: 5)",
)
@click.option("--json", "json_", is_flag=True, help="as JSON")
def gc(apply_: bool, keep_days: float, keep_versions: float, json_: bool) -> int:
    """show what takes room and is not needed: checkpoints, old versions, DVC's cache, leftovers; --apply removes it"""
    from gpt.params.project import load_params

    params = load_params()
    from gpt.maintenance import gc as collection
    from gpt.maintenance.plan import Limits
    from gpt.secrets.hiding import redact_values

    limits = Limits(keep_days, int(keep_versions))
    found = collection.collect(params, limits) if apply_ else collection.look(params, limits)
    print(json.dumps(redact_values(found.to_record()), indent=2) if json_ else collection.show(found, applied=apply_))
    return 1 if apply_ and (found.failed or found.skipped) else 0
