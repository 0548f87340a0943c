"""What is asked and wanted in a conversation, and whether an answer is to the letter the wanted one."""

from collections import defaultdict
from collections.abc import Sequence

from gpt.finetuning.data.examples import Example
from gpt.finetuning.judging.answers import Answer


def asked_part(example: Example) -> list[Example]:
    """Return a conversation up to its last answer."""
    messages = example["messages"]
    last = max(number for number, message in enumerate(messages) if message["role"] == "assistant")
    return messages[:last]


def wanted_answer(example: Example) -> str:
    """Return what the answer to `asked_part` is."""
    return example["messages"][len(asked_part(example))]["content"]


def exact_matches(examples: Sequence[Example], answers: Sequence[Answer]) -> dict[str, list[bool]]:
    """Return for each task which of its answers are to the letter the wanted ones; nothing where no example has a task."""
    right: defaultdict[str, list[bool]] = defaultdict(list)
    for example, said in zip(examples, answers, strict=True):
        if "task" in example:
            right[example["task"]].append(said.ended and said.text.strip() == wanted_answer(example).strip())
    return dict(sorted(right.items()))
