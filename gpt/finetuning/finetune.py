"""The stages of a recipe: its base model and data are brought, then it is trained."""

from gpt import paths
from gpt.code import FINETUNE_STAGES, stage_identity
from gpt.files import as_object, read_json, write_json
from gpt.finetuning.data.held_out import copy_held_out
from gpt.finetuning.data.prepare import Json, prepare_examples
from gpt.finetuning.data.templates import template_source
from gpt.finetuning.jobs.classify import Classifying
from gpt.finetuning.jobs.instruct import Instructing
from gpt.finetuning.jobs.job import FineTuning
from gpt.finetuning.jobs.prefer import Preferring
from gpt.finetuning.places import Places
from gpt.params.finetuning import Classify, Recipe, load_recipe
from gpt.params.project import Params
from gpt.registry.initial.origin import Named, describe_origin
from gpt.registry.initial.weights import bring
from gpt.sources.local import describe_sources
from gpt.tokens.shards import data_id
from gpt.training.run import train

_JOBS: dict[str, type[FineTuning]] = {"instruct": Instructing, "classify": Classifying, "preference": Preferring}


def named_base(recipe: Recipe, places: Places, params: Params) -> Named:
    """Return the base model as the recipe names it."""
    return Named(
        f"{places.recipe}: base",
        recipe.base,
        params.register_.name,
        "this recipe itself",
        (places.model, places.base),
        places.base,
        places.inputs / "finetune_data.json",
    )


def make_data(name: str, params: Params) -> Json:
    """Bring a recipe's base model and make its examples; return what their report says. Raises `UserError`."""
    recipe, places = load_recipe(name), Places(name)
    bring(named_base(recipe, places, params), lambda folder: None)
    copy_held_out(places.base / "tokenizer", places.held_out)
    return prepare_examples(recipe, places, params.evaluate.benchmarks)


def write_inputs(name: str, params: Params) -> None:
    """Write what each stage of a recipe computes with and no file says, for DVC to compare, to `places.inputs`."""
    recipe, places = load_recipe(name), Places(name)
    places.inputs.mkdir(parents=True, exist_ok=True)
    for stage in FINETUNE_STAGES:
        identity: Json = dict(stage_identity(stage))
        if stage == "finetune_data":
            identity |= {
                "origin": describe_origin(named_base(recipe, places, params)),
                "held_out": data_id(paths.TOKENS) if (paths.TOKENS / "index.json").is_file() else None,
                "sources": describe_sources(recipe.data.sources),
                "benchmarks": _benchmarks(recipe, params),
                "template": "" if isinstance(recipe.task, Classify) else template_source(recipe.task.template),
            }
        write_json(places.inputs / f"{stage}.json", identity)


def _benchmarks(recipe: Recipe, params: Params) -> Json:
    """Return the hash of each benchmark that examples are kept clean of, as `gpt fetch` wrote it; None for what is not there."""
    names = params.evaluate.benchmarks if recipe.data.decontaminate.ngram else ()
    listing = paths.BENCHMARKS / "benchmarks.json"
    known = read_json(listing, "run `gpt fetch benchmarks`") if listing.is_file() else {}
    return {name: as_object(known.get(name)).get("sha256") for name in names}


def finetune(name: str, params: Params) -> None:
    """Train what a recipe says, going on from its last checkpoint, and write it to finetuning/NAME/model.

    Raises `UserError` for inputs that are missing or do not fit, `Interrupted` after a signal, with the state saved.
    """
    train(find_job(name, params))


def find_job(name: str, params: Params) -> FineTuning:
    """Return the job of a recipe whose data are there."""
    recipe = load_recipe(name)
    return _JOBS[recipe.task.kind](recipe, Places(name), params)
