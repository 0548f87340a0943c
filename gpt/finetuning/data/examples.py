"""Labelled examples in one of three forms, whatever their files had: a conversation, a text with its class, two answers.

An example is a JSON object, as prepared files have it a line:

    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}
    {"text": "Free entry in 2 a wkly comp", "label": "spam"}
    {"messages": [{"role": "user", "content": "Hi"}], "chosen": "Hello!", "rejected": "What?"}

with `tools`, `task` and `group` where the file says them. Roles are system, user, assistant and tool, as OpenAI has them.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

from gpt.errors import UserError
from gpt.params.finetuning import FIELDS, Data

Example = dict[str, Any]
Row = dict[str, Any]

ROLES = ("system", "user", "assistant", "tool")
_ALSO = {"developer": "system", "function": "tool", "human": "user", "gpt": "assistant"}


def read_example(row: Row, settings: Data) -> Iterator[Example]:
    """Yield the examples of a row of a file; raise `UserError` that says what is wrong with it, but not where it stands."""
    named = {field: row.get(settings.fields.get(field, field)) for field in FIELDS[settings.form]}
    for example in _FORMS[settings.form](named, settings):
        if settings.group:
            if row.get(settings.group) is None:
                raise UserError(f"has no field {settings.group!r}, which data.group names")
            example["group"] = str(row[settings.group])
        yield example


def _of_messages(row: Row, settings: Data) -> Iterator[Example]:
    messages = row["messages"]
    if not isinstance(messages, list) or not messages:
        raise UserError(_missing("messages", settings, "a list of {role, content}"))
    example: Example = {"messages": [read_message(message) for message in messages]}
    if row["tools"]:
        example["tools"] = row["tools"]
    yield _answered(example)


def read_message(message: Any) -> Example:
    """Return a message with `role`, `content` and maybe `tool_calls`; raise `UserError` for what is none."""
    if not isinstance(message, dict):
        raise UserError(f"a message is {type(message).__name__}; it must be an object with role and content")
    role = _ALSO.get(role, role) if isinstance(role := message.get("role"), str) else role
    if role not in ROLES:
        raise UserError(f"a message has role {role!r}; known are {', '.join(ROLES)}")
    content, calls = message.get("content"), message.get("tool_calls")
    if isinstance(content, list):  # OpenAI's parts
        if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
            raise UserError("a message's content has parts that are no text; this model reads text alone")
        content = "".join(part["text"] for part in content)
    if content is None and calls:
        content = ""
    if not isinstance(content, str):
        raise UserError(f"a message's content is {type(content).__name__}; it must be text")
    read: Example = {"role": role, "content": content}
    if calls:
        if role != "assistant" or not isinstance(calls, list):
            raise UserError("tool_calls must be a list, of an assistant's message")
        read["tool_calls"] = [_read_call(call) for call in calls]
    return read


def _read_call(call: Any) -> Example:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise UserError("a tool call has no function with a name")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):  # OpenAI's are JSON in a string
        try:
            arguments = json.loads(arguments)
        except ValueError:
            raise UserError(f"the arguments of the tool call {function['name']} are no JSON") from None
    return {"type": "function", "function": {"name": function["name"], "arguments": arguments}}


def _of_alpaca(row: Row, settings: Data) -> Iterator[Example]:
    instruction, output = (_text(row, field, settings) for field in ("instruction", "output"))
    given = row["input"] or ""
    asked = f"{instruction}\n\n{given}" if given else instruction
    yield _exchange(asked, output)


def _of_prompt_completion(row: Row, settings: Data) -> Iterator[Example]:
    example = _exchange(*(_text(row, field, settings) for field in ("prompt", "completion")))
    if row["task"] is not None:
        example["task"] = str(row["task"])
    yield example


def _of_preference(row: Row, settings: Data) -> Iterator[Example]:
    chosen, rejected, prompt = row["chosen"], row["rejected"], row["prompt"]
    if isinstance(chosen, list) and isinstance(rejected, list):  # whole conversations, which part at the last answer
        ours, theirs = ([read_message(message) for message in messages] for messages in (chosen, rejected))
        if isinstance(prompt, list):
            before = [read_message(message) for message in prompt]
            ours, theirs = (
                [*before, *messages] if messages[: len(before)] != before else messages for messages in (ours, theirs)
            )
        elif isinstance(prompt, str) and len(ours) == len(theirs) == 1:
            ours, theirs = ([{"role": "user", "content": prompt}, *messages] for messages in (ours, theirs))
        if ours[:-1] != theirs[:-1] or not ours[:-1] or {ours[-1]["role"], theirs[-1]["role"]} != {"assistant"}:
            raise UserError("chosen and rejected must be the same conversation but for the assistant's last answer")
        yield {"messages": ours[:-1], "chosen": ours[-1]["content"], "rejected": theirs[-1]["content"]}
        return
    asked, good, bad = (_text(row, field, settings) for field in ("prompt", "chosen", "rejected"))
    yield {"messages": [{"role": "user", "content": asked}], "chosen": good, "rejected": bad}


def _of_text_label(row: Row, settings: Data) -> Iterator[Example]:
    label = row["label"]
    if isinstance(label, bool) or not isinstance(label, str | int):
        raise UserError(_missing("label", settings, "the name or number of a class"))
    yield {"text": _text(row, "text", settings), "label": settings.labels.get(str(label), str(label))}


def _of_chitchat(row: Row, settings: Data) -> Iterator[Example]:
    """Read a talk of the package chitchat-dataset: turns, each a list of what one of two people typed in a row.

    Both are people, so that each answers the other: a talk is two examples of one group, the second from its second turn on.
    """
    turns = row["messages"]
    if not isinstance(turns, list):
        raise UserError(_missing("messages", settings, "a list of turns"))
    said = [" ".join(" ".join(part["text"].split()) for part in turn) for turn in turns]
    said = [text for text in said if text]
    group = hashlib.sha256("\n".join(said).encode()).hexdigest()
    for first in (0, 1):
        talk = said[first : first + (len(said) - first) // 2 * 2]  # somebody has answered the last one
        if talk:
            roles = ("user", "assistant") * (len(talk) // 2)
            messages = [{"role": role, "content": text} for role, text in zip(roles, talk, strict=True)]
            yield {"messages": messages, "group": group}


_FORMS: dict[str, Callable[[Row, Data], Iterator[Example]]] = {
    "messages": _of_messages,
    "alpaca": _of_alpaca,
    "prompt_completion": _of_prompt_completion,
    "preference": _of_preference,
    "text_label": _of_text_label,
    "chitchat": _of_chitchat,
}


def _exchange(asked: str, answer: str) -> Example:
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}


def _answered(example: Example) -> Example:
    roles = [message["role"] for message in example["messages"]]
    if "assistant" not in roles:
        raise UserError("has no answer of the assistant, so there is nothing to learn")
    if "system" in roles[1:]:
        raise UserError("has a system message that is not the first one")
    return example


def _text(row: Row, field: str, settings: Data) -> str:
    value = row[field]
    if not isinstance(value, str):
        raise UserError(_missing(field, settings, "text"))
    return value


def _missing(field: str, settings: Data, what: str) -> str:
    named = settings.fields.get(field, field)
    return f"has no field {named!r} that is {what}; data.fields says what the file calls it"


def texts_of(example: Example) -> list[str]:
    """Return all that an example says: its text, or its messages and answers."""
    said = [message["content"] for message in example.get("messages", ())]
    return [*said, *(example[key] for key in ("text", "chosen", "rejected") if key in example)]


def shown(example: Example) -> str:
    """Return the beginning of an example, for a message."""
    text = example.get("text") or example["messages"][0]["content"]
    return repr(text if len(text) <= 60 else text[:57] + "...")


def asked_of(example: Example) -> str:
    """Return what an example asks, as one text: by it duplicates are found, and its split is drawn."""
    if "text" in example:
        return example["text"]
    messages = example["messages"] if "chosen" in example else example["messages"][:-1]
    return "\n".join(message["content"] for message in messages)
