"""What a run is called: by what its settings change against the run before it, so that a list of runs can be read."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

MOST_CHARACTERS = 80
EXPERIMENT_TAG = "dvc.experiment"
"Of a run that `dvc exp run` started: what DVC calls it."
COMMIT_TAG = "mlflow.source.git.commit"
_RUN_TAG = "gpt.run"
_SHOWN = 4
_VALUE_CHARACTERS = 20
# Sections whose settings make the model, the most telling ones first. What judges and registers it is no difference of the model.
_SECTIONS = ("train", "model", "tokenizer", "base", "tokenize", "prepare", "fetch")
# When training saves, measures and shows something: told after what decides the result.
_WHEN = re.compile(r"_interval$|^train\.checkpoint_")
_FIRST = ("model.n_layer", "model.n_embd", "train.learning_rate", "train.max_steps")
_RUNS = 50


def name_run(client: "MlflowClient", run_id: str) -> None:
    """Name a run that still has the name that it began with: a person's choice stays."""
    run = client.get_run(run_id)
    if run.info.run_name != run.data.tags.get(_RUN_TAG):
        return
    before = _run_before(client, run)
    client.update_run(run_id, name=choose_name(run.data.params, run.data.tags, before))


def choose_name(
    params: Mapping[str, str], tags: Mapping[str, str], before: "tuple[Mapping[str, str], Mapping[str, str]] | None"
) -> str:
    """Return the name of a run with these settings; `before` are params and tags of the last run of its experiment.

    As in `learning_rate=0.02 n_layer=6`; after a DVC experiment `longer: max_steps=2000`; the first run is named by its size.
    """
    text = _first(params) if before is None else _differences(params, before[0]) or _code(tags, before[1])
    experiment = tags.get(EXPERIMENT_TAG, "")
    text = f"{experiment}: {text}" if experiment and text else experiment or text or "the same settings again"
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 1]}…"


def _run_before(client: "MlflowClient", run: "Run") -> tuple[Mapping[str, str], Mapping[str, str]] | None:
    """Return params and tags of the newest run of ours that began before this one."""
    found = client.search_runs(
        [run.info.experiment_id],
        f"attributes.start_time <= {run.info.start_time}",
        order_by=["attributes.start_time DESC"],
        max_results=_RUNS,
    )
    for other in found:
        if other.info.run_id != run.info.run_id and _RUN_TAG in other.data.tags and other.data.params:
            return other.data.params, other.data.tags
    return None


def _first(params: Mapping[str, str]) -> str:
    return " ".join(f"{key.partition('.')[2]}={params[key]}" for key in _FIRST if key in params)


def _differences(params: Mapping[str, str], before: Mapping[str, str]) -> str:
    """Return the settings that changed, as `key=value`, or as the key alone where the value is no short one.

    A setting that only one of the two runs has is of another release, and no choice; a source of texts is told: `+wikipedia`.
    """
    changed = [
        key
        for section in _SECTIONS
        for key in sorted(params, key=lambda key: (bool(_WHEN.search(key)), key))
        if key.startswith(f"{section}.") and key in before and params[key] != before[key]
    ]
    short = [key.partition(".")[2] for key in changed]
    names = [name if short.count(name) == 1 else key for key, name in zip(changed, short, strict=True)]
    shown = [_pair(name, params[key]) for key, name in zip(changed, names, strict=True)]
    new, old = _sources(params), _sources(before)
    shown += [f"+{name}" for name in sorted(new - old)] + [f"-{name}" for name in sorted(old - new)]
    more = len(shown) - _SHOWN
    return " ".join(shown[:_SHOWN] + ([f"+{more} more"] if more > 0 else []))


def _sources(params: Mapping[str, str]) -> set[str]:
    return {
        key.removeprefix("fetch.").removesuffix(".sha256").removesuffix(".revision")
        for key in params
        if key.startswith("fetch.")
    }


def _pair(name: str, value: str) -> str:
    is_short = len(value) <= _VALUE_CHARACTERS and not value.startswith(("{", "[", "("))
    return f"{name}={value}" if is_short else name


def _code(tags: Mapping[str, str], before: Mapping[str, str]) -> str:
    commit = tags.get(COMMIT_TAG, "")
    return f"commit={commit[:7]}" if commit and commit != before.get(COMMIT_TAG) else ""
