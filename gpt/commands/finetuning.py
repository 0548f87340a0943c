"""Commands that fine-tune a model by a recipe, `finetuning/NAME.yaml`: the stages of finetuning/dvc.yaml."""

import sys
from pathlib import Path

import click

from gpt.addresses import mlflow_address
from gpt.commands.line.arguments import NOT_EMPTY, TEXT, FromHere, Model, OneOf, Where, json_option
from gpt.commands.line.command import Group, command

_recipe = click.argument("recipe", type=TEXT, help="its name, as in finetuning/NAME.yaml")


@command(
    examples=[
        "gpt finetune init support --data tickets.csv  # then: python -m flows.finetune support",
        "gpt finetune init mood --data reviews.jsonl --field text=body --field label=stars --method lora",
    ],
    notes="What is learned follows from the fields: text and label, prompt and completion, instruction and output, messages, or"
    " chosen and rejected. Files: JSONL, JSON, CSV, TSV, Parquet.",
)
@_recipe
@click.option("--data", required=True, type=Where(), metavar="FILE|FOLDER|URL|hf://…", help="the labelled examples")
@click.option(
    "--base", type=Model(), default="models/base", help="a folder or models:/NAME@ALIAS (default: models/base)"
)
@click.option(
    "--method",
    type=OneOf("full", "lora"),
    default="full",
    help="what is trained: all weights, or adapters (default: full)",
)
@click.option(
    "--field", "fields", type=NOT_EMPTY, multiple=True, metavar="FIELD=COLUMN", help="what the files call a field"
)
def init(recipe: str, data: str, base: str, method: str, fields: tuple[str, ...]) -> int:
    """write a recipe for labelled data of your own: finetuning/NAME.yaml"""
    from gpt.errors import UserError
    from gpt.projects.recipes import create_recipe

    named = [field.partition("=") for field in fields]
    if wrong := [field for field, (key, _, column) in zip(fields, named, strict=True) if not (key and column)]:
        raise UserError(f"--field {wrong[0]}: must be FIELD=COLUMN, as in --field text=body")
    print("\n".join(create_recipe(recipe, data, base, method, {key: column for key, _, column in named})))
    return 0


@command(examples=["gpt finetune inputs spam  # dvc repro calls it before it compares"])
@_recipe
def inputs(recipe: str) -> int:
    """write down, for DVC, what the stages of a recipe compute with: its base model's version, code, versions of libraries"""
    from gpt.finetuning.finetune import write_inputs
    from gpt.finetuning.places import Places
    from gpt.params.project import load_params

    write_inputs(recipe, load_params())
    print(f"{Places(recipe).inputs}: written")
    return 0


@command(examples=["gpt finetune data spam"])
@_recipe
def data(recipe: str) -> int:
    """bring a recipe's base model and labelled data, and turn these into tokens"""
    from gpt.finetuning.finetune import make_data
    from gpt.params.project import load_params

    report = make_data(recipe, load_params())
    for split, about in report["splits"].items():
        each = ", ".join(f"{count:,} {name}" for name, count in about["of_each"].items() if name)
        print(f"{split}: {about['examples']:,} examples, {about['tokens']:,} tokens" + (f" ({each})" if each else ""))
    for reason, count in report["left_out"].items():
        print(f"  {count:,} left out: {reason}")
    return 0


@command(examples=["gpt finetune train spam"])
@_recipe
def train(recipe: str) -> int:
    """train what a recipe says, going on from its last checkpoint"""
    from gpt.params.finetuning import load_recipe
    from gpt.params.project import load_params

    params = load_params()
    load_recipe(recipe)
    mlflow_address()
    from gpt.processes.owner import watch_owner

    watch_owner()
    from gpt.processes.launch import check_launch, needs_workers

    check_launch(params)
    advice = "params.yaml: lower launch.micro_batch_size, or train.batch_size of the recipe (which changes the result)"
    if needs_workers(params.launch):
        from gpt.processes.workers import run_workers

        return run_workers(params.launch, ["-m", "gpt.commands.worker", "finetune", "train", recipe], advice)
    from gpt.finetuning.finetune import finetune
    from gpt.memory import told_if_out_of_memory

    with told_if_out_of_memory(advice):
        finetune(recipe, params)
    return 0


@command(examples=["gpt finetune evaluate spam"])
@_recipe
def evaluate(recipe: str) -> int:
    """judge a fine-tuned model on its test examples, and write finetuning/NAME/evaluation.json"""
    from gpt.params.finetuning import load_recipe, registered_name
    from gpt.params.project import load_params

    params, _ = load_params(), load_recipe(recipe)
    mlflow_address()
    from gpt.processes.owner import watch_owner

    watch_owner()  # before the imports of torch, which take seconds
    from gpt.finetuning.judging.evaluate import evaluate, main_figures
    from gpt.finetuning.places import Places
    from gpt.finetuning.registering.finetuned import describe
    from gpt.tracking.evaluation import log_finetuned

    evaluation = evaluate(recipe)
    for name, figure in main_figures(evaluation).items():
        print(f"{name.replace('_', ' ')}: {figure:.4f}")
    sys.stdout.flush()  # before MLflow, which may take its time
    log_finetuned(
        registered_name(params.register_.name, recipe), Places(recipe).run, evaluation, describe(recipe, evaluation)
    )
    return 0


@command(examples=["gpt finetune report spam"])
@_recipe
def report(recipe: str) -> int:
    """write a page with a fine-tuned model's figures, mistakes or answers, and curves: finetuning/NAME/report.html"""
    from gpt.params.finetuning import load_recipe, registered_name
    from gpt.params.project import load_params

    params, _ = load_params(), load_recipe(recipe)
    mlflow_address()
    from gpt.finetuning.places import Places
    from gpt.reports.finetuned import write_report
    from gpt.tracking.evaluation import log_page

    page = write_report(recipe)
    print(f"report: {page}", flush=True)
    log_page(registered_name(params.register_.name, recipe), Places(recipe).run, page)
    return 0


@command(examples=["gpt finetune register spam", "gpt finetune register spam --json  # for scripts"])
@_recipe
@json_option
def register(recipe: str, json_: bool) -> int:
    """register the evaluated model in MLflow as NAME-RECIPE, and let the gate judge it"""
    from gpt.params.project import load_params

    params = load_params()
    from gpt.finetuning.registering.finetuned import register_recipe
    from gpt.finetuning.registering.promoting import named, open_case_of
    from gpt.registry import package, promotion

    registered = register_recipe(recipe, params)
    print(registered.describe(), flush=True)
    if registered.alias == "candidate":
        told, *_ = promotion.judge_registered(
            named(registered.name, params), Path.cwd(), registered.version, open_case_of(recipe)
        )
        registered = package.with_its_role(registered)
        if told:
            print(told, flush=True)
    if json_:
        print(registered.to_json())
    return 0


@command(examples=["gpt finetune export chat export/chat  # of method.kind: lora; PEFT loads export/chat/adapter"])
@_recipe
@click.argument("folder", type=FromHere("dir"), metavar="DIR", help="the folder to make")
def export(recipe: str, folder: Path) -> int:
    """write a recipe's adapters as PEFT loads them, with the base model as transformers loads it"""
    from gpt.finetuning.methods.peft import export_peft
    from gpt.finetuning.places import Places

    places = Places(recipe)
    export_peft(places.model, places.base, folder)
    print(f"{folder / 'adapter'}: PeftModel.from_pretrained loads it, on {folder / 'base'}")
    return 0


FINETUNE = Group(
    "finetune",
    "teach a trained model from labelled data, as finetuning/NAME.yaml says",
    {"Commands": (init, inputs, data, train, evaluate, report, register, export)},
)
