"""Commands of the registry: register a version, judge it, go back, and list what there is."""

from pathlib import Path

import click

from gpt.commands.line.arguments import NOT_EMPTY, TEXT, at_least, json_option
from gpt.commands.line.command import command
from gpt.errors import UserError


@command(examples=["gpt register", "gpt register --json  # for scripts"])
@json_option
def register(json_: bool) -> int:
    """register the evaluated model in MLflow as the candidate, and let the gate judge it"""
    from gpt import paths
    from gpt.params.project import load_params

    params = load_params()
    from gpt.registry import package, promotion
    from gpt.reports.model_page.versions import draw_registered
    from gpt.tracking.evaluation import log_comparison

    registered = package.register(params, Path.cwd())
    print(registered.describe(), flush=True)
    if registered.alias == "candidate":
        told, reasons, comparison = promotion.judge_registered(params, Path.cwd(), registered.version)
        registered = package.with_its_role(registered)
        if told:  # else it is the champion, and the page of its verdict stays
            print(told, flush=True)
            try:
                print(f"page: {draw_registered(paths.COMPARISON, registered, reasons, comparison)}", flush=True)
            except UserError as error:  # a champion that others registered, for example; the verdict stands without it
                print(f"no page is drawn: {error}", flush=True)
            else:
                log_comparison(params, registered.version)
    if json_:
        print(registered.to_json())
    return 0


_name_option = click.option(
    "--name",
    type=NOT_EMPTY,
    metavar="NAME",
    help="a registered model of this project: NAME-RECIPE of a recipe of fine-tuning (default: register.name of params.yaml)",
)


@command(
    examples=[
        "gpt promote",
        "gpt promote --name shakespeare-gpt-spam",
        "gpt promote --other-data  # the champion learnt from other texts",
    ]
)
@click.option(
    "--other-data",
    is_flag=True,
    help="let a model of other texts take the champion's place: compare with no champion, the thresholds decide",
)
@_name_option
def promote(other_data: bool, name: str | None) -> int:
    """make the candidate the champion if it passes the gate of params.yaml, or of its recipe"""
    from gpt.params.project import load_params

    params = load_params()
    from gpt.finetuning.registering.promoting import named, open_case_of, recipe_of
    from gpt.registry import promotion

    name = name or params.register_.name
    recipe = recipe_of(name, params)
    open_case = None if recipe is None else open_case_of(recipe, other_data=other_data)
    verdict = promotion.promote(named(name, params), Path.cwd(), other_data=other_data, open_case=open_case)
    print(verdict.describe())
    return 1 if verdict.refused else 0


@command(examples=["gpt rollback", 'gpt rollback 3 --reason "4 repeats itself"'])
@click.argument(
    "version",
    required=False,
    type=at_least(int, 1),
    metavar="VERSION",
    help="of an earlier champion (default: the last one before this that exists)",
)
@click.option("--reason", type=TEXT, default="", metavar="TEXT", help="is recorded, with who and when")
@_name_option
def rollback(version: int | None, reason: str, name: str | None) -> int:
    """make an earlier champion the champion again"""
    from gpt.params.project import load_params

    params = load_params()
    from gpt.finetuning.registering.promoting import named, recipe_of
    from gpt.registry import promotion

    name = name or params.register_.name
    recipe_of(name, params)
    print(promotion.rollback(named(name, params), version, reason).describe())
    return 0


@command(
    examples=["gpt models", "gpt models --limit 0 --history", "gpt models shakespeare-gpt --json"],
    notes="A version that has an alias is shown however old it is.",
)
@click.argument(
    "name",
    required=False,
    type=NOT_EMPTY,
    metavar="NAME",
    help="a registered model (default: register.name of params.yaml)",
)
@click.option(
    "--limit", type=at_least(int, 0), default=20, metavar="N", help="newest versions to show (default: 20; 0: all)"
)
@click.option("--history", is_flag=True, help="every decision of promote and rollback, too")
@click.option("--json", "json_", is_flag=True, help="as JSON")
def models(name: str | None, limit: int, history: bool, json_: bool) -> int:
    """list the registered versions: aliases, figures, data, commit, age, verdict"""
    from gpt.params.project import load_params

    name = name or load_params().register_.name
    from gpt.registry.overview.listing import read_overview, show, to_json
    from gpt.tracking import store

    client = store.existing_client()
    with store.store_errors():
        overview = read_overview(client, name, limit, history=history)
    print(to_json(overview, history=history) if json_ else show(overview, history=history))
    return 0
