"""The `gpt` command: its commands, its exit codes and how an error is told. The commands are in a file per group.

Exit codes: 0 done, 1 failed, 2 the user must change something, 128 + n stopped by signal n with the state saved.
"""

import logging
import os
import sys
import warnings

import click
from click.exceptions import Exit

from gpt.commands import data, finetuning, lineage, models, projects, serving, sources, training, versions
from gpt.commands.checks import doctor, gc
from gpt.commands.experiments import experiments, sweeps
from gpt.commands.line import completion
from gpt.commands.line.command import Group, version_option
from gpt.commands.line.mistakes import explain
from gpt.entry import begin, end_with, leave
from gpt.errors import UserError

COMMANDS = Group(
    "gpt",
    "Pretrain your own GPT from params.yaml. Works on the project that the current folder lies in.",
    {
        "A project": (projects.init,),
        "Data": (
            *(data.inputs, sources.fetch, data.prepare, data.tokenizer, data.tokenize),
            *(data.data_card, data.TOKENS, data.DATA),
        ),
        "Training": (training.pretrain, training.checkpoints, training.sync),
        "Fine-tuning": (finetuning.FINETUNE,),
        "Experiments": (experiments.experiment, experiments.compare, sweeps.SWEEP),
        "A trained model": (
            *(models.evaluate, models.report, models.generate, serving.serve),
            *(models.import_, models.export),
        ),
        "The registry": (
            *(versions.register, versions.promote, versions.rollback, versions.models),
            *(lineage.lineage, lineage.reproduce),
        ),
        "This machine": (doctor.doctor, gc.gc, completion.completion),
    },
    params=[version_option()],
    epilog="Exit codes: 0 done, 1 failed, 2 you must change something. `gpt COMMAND --help` shows examples.",
)


def main(arguments: list[str] | None = None) -> int:
    """Run one command, say what went wrong, and return its exit code."""
    return leave(end_with(lambda: run(arguments)))


def run(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code. What only the user can change is raised as `UserError`."""
    begin()
    if instruction := os.environ.get(completion.VARIABLE):
        return completion.answer(COMMANDS, instruction)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.captureWarnings(True)
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        with COMMANDS.make_context("gpt", list(sys.argv[1:] if arguments is None else arguments)) as context:
            return COMMANDS.invoke(context)
    except Exit as ended:  # after --help
        return ended.exit_code
    except click.UsageError as error:
        raise UserError(explain(error)) from None


if __name__ == "__main__":
    sys.exit(main())
