"""`gpt completion SHELL`, and what a shell asks for when Tab is pressed: commands, options, their values, paths, registered models.

Click brings the protocols. In bash `:`, `=` and `@` part words, and `models:/NAME@ALIAS` is several: so its script hands over the
line, and gets what belongs to the last of them.
"""

import os
from pathlib import Path

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    add_completion_class,
    get_completion_class,
    shell_complete,
)
from click.shell_completion import split_arg_string as split_words

from gpt.commands.line.arguments import OneOf
from gpt.commands.line.command import command
from gpt.errors import UserError

VARIABLE = "_GPT_COMPLETE"
_SHELLS = ("bash", "zsh", "fish")
_WHERE = {
    "bash": 'in ~/.bashrc: eval "$(gpt completion bash)"',
    "zsh": 'in ~/.zshrc, after compinit: eval "$(gpt completion zsh)"',
    "fish": "once: gpt completion fish >~/.config/fish/completions/gpt.fish",
}


@command(
    examples=[
        'eval "$(gpt completion bash)"  # for this shell; in ~/.bashrc for all',
        'eval "$(gpt completion zsh)"  # the same in ~/.zshrc, after compinit',
        "gpt completion fish >~/.config/fish/completions/gpt.fish",
    ]
)
@click.argument("shell", required=False, type=OneOf(*_SHELLS), help="default: that of SHELL")
@click.pass_context
def completion(context: click.Context, shell: str | None) -> int:
    """print the script that lets a shell complete commands, options, paths and models"""
    shell = shell or Path(os.environ.get("SHELL", "")).name
    kind = get_completion_class(shell) if shell in _SHELLS else None
    if kind is None:
        raise UserError(f"SHELL = {shell!r} is none that can complete; name one: gpt completion {'|'.join(_SHELLS)}")
    print(f"# {_WHERE[shell]}")
    print(kind(context.find_root().command, {}, "gpt", VARIABLE).source())
    return 0


def answer(commands: click.Group, instruction: str) -> int:
    """Print what a shell's script asked for by `instruction`, the value of its variable."""
    return shell_complete(commands, {}, "gpt", VARIABLE, instruction)


class Bash(BashComplete):
    """Bash's completion, with its line instead of its words."""

    source_template = r"""
%(complete_func)s() {
    local IFS=$'\n' kind value
    COMPREPLY=()
    while IFS=',' read -r kind value; do
        case $kind in
            dir) compopt -o dirnames -o filenames ;;
            file) compopt -o default -o filenames ;;
            *) COMPREPLY+=("$value") ;;
        esac
    done < <(COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_WORDBREAKS="$COMP_WORDBREAKS" %(complete_var)s=bash_complete "$1")
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ["COMP_LINE"]
        words = split_words(line)[1:]
        return (words, "") if line[-1:].isspace() or not words else (words[:-1], words[-1])

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[str]]:
        breaks = os.environ.get("COMP_WORDBREAKS", "")
        begins = {sign: incomplete.rfind(sign) for sign in ":=@" if sign in breaks and sign in incomplete}
        done = max(
            [0, *(begin + (sign != "@") for sign, begin in begins.items())]
        )  # a word begins with @, not after it
        items = super().get_completions(args, incomplete)
        for item in items:
            if item.type == "plain":
                item.value = item.value[done:]
        return items


add_completion_class(Bash)
