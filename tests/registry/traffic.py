"""Requests to a served model, valid and malformed, of every kind, from a seed."""

import io
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

JSON, CSV, PARQUET = "application/json", "text/csv", "application/vnd.apache.parquet"
LIMIT = 256  # of new tokens: the small project's block_size is 16
_BIG = 2**63


@dataclass(frozen=True)
class Malformed:
    """A request that is refused; its answer's message has `named`."""

    body: bytes
    named: str
    content_type: str | None = JSON
    status: int = 400


@dataclass(frozen=True)
class Valid:
    """A request for completions of some prompts."""

    body: bytes
    prompts: list[str]
    parameters: dict[str, Any] = field(default_factory=dict)
    content_type: str = JSON


def inputs(prompt: Any, **parameters: Any) -> bytes:
    return json.dumps({"inputs": {"prompt": prompt}, "params": parameters}).encode()


WRONG_PARAMETERS: dict[str, list[Any]] = {
    "max_new_tokens": [0, -1, LIMIT + 1, 10**9, _BIG, 10**400, 1.5, 8.0, "8", None, True, [8], {}, float("inf")],
    "temperature": [-0.1, -1e9, float("nan"), float("inf"), "hot", None, True, [1.0], 10**400],
    "top_k": [-1, 2.5, "5", None, False, _BIG, [5]],
    "top_p": [-0.1, 0, 1.1, 2, float("nan"), float("inf"), "1", None, True],
    "min_p": [-0.1, 1.1, float("nan"), float("-inf"), "0", None, True],
    "repetition_penalty": [0, -1, float("nan"), float("inf"), "1", None, {"x": 1}],
    "seed": [-1, 1.5, 1.0, "1", None, True, _BIG, 10**30, [1]],
    "stop": ["the", 5, None, [5], [None], [""], [["a"]], {"a": 1}, ["\ud800"], ["a"] * 17, ["a" * 257]],
}
WRONG_PROMPTS: list[tuple[Any, str]] = [
    ([None], "row 0 (null)"),
    (["to be", None], "row 1 (null)"),
    ([7], "row 0 (int)"),
    (["to be", 7], "row 1 (int)"),
    ([True], "row 0 (bool)"),
    ([1.5, "a"], "row 0 (float)"),
    ([float("nan")], "row 0 (null)"),
    ([{"role": "user"}], "row 0 (dict)"),
    (None, "prompt"),
    (7, "row 0 (int)"),
    ({"a": 1}, "row 0 (int)"),
    ([["a", ["b"]]], '"prompt"'),
    (["\ud800"], "row 0"),
    (["fine", "half \udfff of a pair"], "row 1"),
    (["a" * 100_001], "row 0 (100,001)"),
    (["a"] * 1025, "1,025 rows"),
    (["a"] * 5000, "5,000 rows"),
]
WRONG_BODIES: list[tuple[bytes, str]] = [
    (b"", "no JSON"),
    (b"{", "no JSON"),
    (b'{"inputs": {"prompt": ["a"]}', "no JSON"),
    (b"{'inputs': 1}", "no JSON"),
    (b"\xff\xfe\xfa", "the request is"),
    (b'{"inputs": {"prompt": ["\xc3\x28"]}}', "not UTF-8"),
    (b"null", "NoneType"),
    (b"[]", "list"),
    (b'"to be"', "str"),
    (b"7", "int"),
    (b"{}", "0 tables"),
    (b"[" * 100_000, "nested too deep"),
    (b'{"inputs": ' * 20_000, "nested too deep"),
    (b'{"inputs": {"prompt": ["a"]}, "params": {"seed": ' + b"9" * 5000 + b"}}", "digits"),
    (b'{"inputs": {"prompt": ["a"]}, "params": [1]}', "params"),
    (b'{"inputs": {"prompt": ["a"]}, "params": "seed"}', "params"),
    (b'{"inputs": {"prompt": ["a"]}, "parms": {"seed": 1}}', "'parms'"),
    (b'{"inputs": {"prompt": ["a"]}, "params": {"temprature": 1}}', "'temprature'"),
    (b'{"inputs": {"prompt": ["a"]}, "params": {"\\u0000\\u001b[31m": 1}}', "there is no parameter"),
    (b'{"inputs": {"prompt": ["a"]}, "instances": [{"prompt": "a"}]}', "2 tables"),
    (b'{"prompt": "a", "inputs": {"prompt": ["a"]}}', "'inputs'"),
    (b'{"prompt": "a", "max_tokens": 5}', "'max_tokens'"),
    (b'{"prompt": "a", "seed": "x"}', '"seed"'),
    (b'{"prompt": null}', "prompt"),
    (b'{"messages": [{"role": "user", "content": "hi"}]}', "'messages'"),
    (b'{"input": "a"}', "'input'"),
    (b'{"inputs": {"text": ["a"]}}', "prompt"),
    (b'{"inputs": {}}', "prompt"),
    (b'{"inputs": null}', "prompt"),
    (b'{"inputs": "a"}', "prompt"),
    (b'{"inputs": 7}', "prompt"),
    (b'{"instances": null}', "prompt"),
    (b'{"instances": [{"text": "a"}]}', "prompt"),
    (b'{"instances": [{"prompt": "a"}, {"text": "b"}]}', "row 1 (null)"),
    (b'{"dataframe_records": []}', "prompt"),
    (b'{"dataframe_records": {}}', "Dataframe records format"),
    (b'{"dataframe_records": [null]}', "prompt"),
    (b'{"dataframe_records": [["a"]]}', "prompt"),
    (b'{"dataframe_records": [{"prompt": "a"}, {}]}', "row 1 (null)"),
    (b'{"dataframe_records": "a"}', "Dataframe records format"),
    (b'{"dataframe_split": {"columns": ["prompt"]}}', "'data'"),
    (b'{"dataframe_split": {"columns": ["prompt"], "data": [["a", "b"]]}}', "dataframe_split"),
    (b'{"dataframe_split": {"columns": ["prompt"], "data": "a"}}', "dataframe_split"),
    (b'{"dataframe_split": {"columns": ["prompt", "prompt"], "data": [["a", "b"]]}}', "prompt"),
    (b'{"dataframe_split": []}', "Dataframe split format"),
    (b'{"dataframe_split": null}', "Dataframe split format"),
]
WRONG_TYPES: list[tuple[bytes, str | None, int, str]] = [
    (b'{"inputs": {"prompt": ["a"]}}', "text/plain", 415, "content types"),
    (b'{"inputs": {"prompt": ["a"]}}', None, 415, "content types"),
    (b'{"inputs": {"prompt": ["a"]}}', "application/json; charset=latin-1", 415, "UTF-8"),
    (b'{"inputs": {"prompt": ["a"]}}', "application/x-python-pickle", 415, "content types"),
    (b'prompt\n"a', CSV, 400, "CSV"),
    (b"", CSV, 400, "CSV"),
    (b"\xff\xfe", CSV, 400, "UTF-8"),
    (b"text\na\n", CSV, 400, "prompt"),
    (b"prompt,note\na\nb,c,d,e\n", CSV, 400, "CSV"),
    (b"no parquet", PARQUET, 400, "Parquet"),
    (b"", PARQUET, 400, "Parquet"),
    (b"PAR1" + b"\0" * 40 + b"PAR1", PARQUET, 400, "Parquet"),
]


def every_malformed_request() -> list[Malformed]:
    """Return each kind of malformed request once."""
    found = [
        Malformed(inputs(["to be"], **{name: value}), f'"{name}"')
        for name, values in WRONG_PARAMETERS.items()
        for value in values
    ]
    found += [Malformed(inputs(prompt), named) for prompt, named in WRONG_PROMPTS]
    found += [Malformed(body, named) for body, named in WRONG_BODIES]
    found += [Malformed(body, named, kind, status) for body, kind, status, named in WRONG_TYPES]
    found.append(Malformed(inputs(["a"] * 300, max_new_tokens=LIMIT), "65,536 new tokens"))
    found.append(Malformed(inputs(["a" * (16 * 2**20)]), "bytes"))
    return found


def malformed_requests(count: int, seed: int) -> list[Malformed]:
    """Return every kind, and then more of them, with noise: cut off, a byte changed, another parameter that is right."""
    pick = random.Random(seed)
    found = every_malformed_request()
    while len(found) < count:
        name = pick.choice(list(WRONG_PARAMETERS))
        wrong = {name: pick.choice(WRONG_PARAMETERS[name])}
        right = {key: value for key, value in some_parameters(pick).items() if key != name}
        body = inputs([pick.choice(PROMPTS) for _ in range(pick.randint(1, 3))], **(right | wrong))
        cut = pick.randint(1, len(body) - 1)
        found.append(pick.choice([Malformed(body, f'"{name}"'), Malformed(body[:cut], "no JSON")]))
    pick.shuffle(found)
    return found[:count]


PROMPTS = [
    "",
    " ",
    "to be",
    "to be, or not to be",
    "queen",
    "Naïve 漢字 😀 e\u0301",
    "a\0b\x1b[31m\r\n\t",
    "<|endoftext|>",
    "<|endoftext|> to be",
    "-- -n --seed",
    "null",
    "\u202eright to left\ufeff",
    "to be " * 500,
    "\U0010ffff\ue000",
]


def some_parameters(pick: random.Random) -> dict[str, Any]:
    """Return valid values of some of the sampling parameters."""
    values: dict[str, Callable[[], Any]] = {
        "max_new_tokens": lambda: pick.choice([1, 2, 7, 20, 40, 120, LIMIT]),
        "temperature": lambda: pick.choice([0, 0.0, 0.3, 1, 1.7, 100.0]),
        "top_k": lambda: pick.choice([0, 1, 5, 10_000, _BIG - 1]),
        "top_p": lambda: pick.choice([1, 0.9, 0.5, 0.01]),
        "min_p": lambda: pick.choice([0, 0.05, 0.5, 1]),
        "repetition_penalty": lambda: pick.choice([1, 1.2, 3.0, 0.5]),
        "seed": lambda: pick.choice([0, 1, 1337, 2**32, _BIG - 1]),
        "stop": lambda: pick.sample(["the", " ", "be", "queen", "\n", "é", "zz"], pick.randint(0, 3)),
    }
    return {name: make() for name, make in values.items() if pick.random() < 0.5}


def valid_requests(count: int, seed: int) -> list[Valid]:
    """Return requests in every form that MLflow reads."""
    pick = random.Random(seed)
    forms: list[Callable[[list[str], dict[str, Any]], Valid]] = [
        lambda prompts, values: Valid(inputs(prompts, **values), prompts, values),
        lambda prompts, values: Valid(inputs(prompts[0], **values), prompts[:1], values),
        lambda prompts, values: Valid(_table("inputs", _records(prompts), values), prompts, values),
        lambda prompts, values: Valid(_table("instances", _records(prompts), values), prompts, values),
        lambda prompts, values: Valid(_table("dataframe_records", _records(prompts), values), prompts, values),
        lambda prompts, values: Valid(
            _table("dataframe_split", {"columns": ["prompt"], "data": [[text] for text in prompts]}, values),
            prompts,
            values,
        ),
        lambda prompts, values: Valid(json.dumps({"prompt": prompts[0]} | values).encode(), prompts[:1], values),
        lambda prompts, values: Valid(inputs(prompts, **values), prompts, values, "Application/JSON; charset=UTF-8"),
        lambda prompts, values: Valid(_parquet(prompts), prompts, {}, PARQUET),
        lambda prompts, values: Valid(b"prompt\nto be\nqueen\n", ["to be", "queen"], {}, CSV),
    ]
    return [
        pick.choice(forms)([pick.choice(PROMPTS) for _ in range(pick.randint(1, 3))], some_parameters(pick))
        for _ in range(count)
    ]


def _records(prompts: list[str]) -> list[dict[str, str]]:
    return [{"prompt": text} for text in prompts]


def _table(form: str, table: Any, parameters: dict[str, Any]) -> bytes:
    return json.dumps({form: table} | ({"params": parameters} if parameters else {})).encode()


def _parquet(prompts: list[str]) -> bytes:
    file = io.BytesIO()
    pd.DataFrame({"prompt": prompts}).to_parquet(file)
    return file.getvalue()
