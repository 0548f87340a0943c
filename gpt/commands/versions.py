"""Commands that look at the versions of a registered model."""

import argparse

from gpt.commands.arguments import Commands, add_command, at_least, not_empty


def add_commands(commands: Commands) -> None:
    """Add the commands of this file to `gpt`."""
    _add_models(commands)


def models(options: argparse.Namespace) -> int:
    """list the registered versions: aliases, figures, data, commit, age, verdict"""
    from gpt.params.project import load_params

    name = options.name or load_params().register_.name
    from gpt.registry.overview.listing import read_overview, show, to_json
    from gpt.tracking import store

    client = store.existing_client()
    with store.store_errors():
        overview = read_overview(client, name, options.limit, history=options.history)
    print(to_json(overview, history=options.history) if options.json else show(overview, history=options.history))
    return 0


def _add_models(commands: Commands) -> None:
    parser = add_command(commands, models)
    parser.add_argument(
        "name",
        type=not_empty,
        nargs="?",
        metavar="NAME",
        help="a registered model (default: register.name of params.yaml)",
    )
    parser.add_argument(
        "--limit",
        type=at_least(int, 0),
        default=20,
        metavar="N",
        help="newest versions to show (default: %(default)s; 0: all)",
    )
    parser.add_argument("--history", action="store_true", help="every decision of promote and rollback, too")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.epilog = "A version that has an alias is shown however old it is."
