"""`gpt generate`: a model continues prompts."""

import click

from gpt.commands.line.arguments import NOT_EMPTY, TEXT, at_least, model_option
from gpt.commands.line.command import command


@command(
    examples=[
        'gpt generate "To be, or"',
        'gpt generate "To be, or" "Once upon a time" --temperature 0  # several at once, the likeliest tokens',
        'gpt generate "ROMEO:" --model models:/shakespeare-gpt@champion --max-new-tokens 200 --stop "JULIET:"',
    ],
    notes="What is not given and has no default here is taken from params.yaml: evaluate and base.seed.",
)
@click.argument(
    "prompts",
    type=TEXT,
    nargs=-1,
    required=True,
    metavar="PROMPT...",
    help="one is printed as it is generated, several when all are done",
)
@model_option
@click.option("--max-new-tokens", type=at_least(int, 1), metavar="N")
@click.option("--temperature", type=at_least(float, 0), metavar="X", help="0 takes the likeliest token always")
@click.option("--top-k", type=at_least(int, 0), metavar="N", help="sample among the N likeliest tokens; 0: among all")
@click.option(
    "--top-p",
    type=at_least(float, 0.0001, 1),
    default=1.0,
    metavar="X",
    help="sample among the fewest likeliest tokens that together have probability X (default: 1, among all)",
)
@click.option(
    "--min-p",
    type=at_least(float, 0, 1),
    default=0.0,
    metavar="X",
    help="sample among tokens of at least X times the likeliest one's probability (default: 0, among all)",
)
@click.option(
    "--repetition-penalty",
    type=at_least(float, 0.01),
    default=1.0,
    metavar="X",
    help="above 1 makes tokens that were there before less likely (default: 1)",
)
@click.option(
    "--stop",
    type=NOT_EMPTY,
    multiple=True,
    metavar="TEXT",
    help="end before this text; may be given several times",
)
@click.option("--seed", type=at_least(int, 0), metavar="N", help="the next prompt's is one more")
def generate(
    prompts: tuple[str, ...],
    model: str,
    max_new_tokens: int | None,
    temperature: float | None,
    top_k: int | None,
    top_p: float,
    min_p: float,
    repetition_penalty: float,
    stop: tuple[str, ...],
    seed: int | None,
) -> int:
    """let the model continue prompts"""
    from gpt.params.project import load_params

    params = load_params()
    from gpt.memory import told_if_out_of_memory
    from gpt.model.generation import Sampling, generate_text, generate_texts
    from gpt.model.storage import default_device, load_model
    from gpt.processes.cores import bound_threads
    from gpt.registry.versions import resolve_model

    bound_threads()
    settings = params.evaluate
    sampling = Sampling(
        max_new_tokens=settings.max_new_tokens if max_new_tokens is None else max_new_tokens,
        temperature=settings.temperature if temperature is None else temperature,
        top_k=settings.top_k if top_k is None else top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        stop=stop,
        seed=params.base.seed if seed is None else seed,
    )
    with told_if_out_of_memory(
        "give fewer prompts at a time, or compute elsewhere: CUDA_VISIBLE_DEVICES='' takes the processor"
    ):
        gpt, encoding = load_model(resolve_model(model, params.register_.name), default_device())
        if len(prompts) == 1:
            print(prompts[0], end="", flush=True)
            for piece in generate_text(gpt, encoding, prompts[0], sampling):
                print(piece, end="", flush=True)
            print()
        else:
            texts = generate_texts(gpt, encoding, prompts, sampling)
            print("\n\n".join(prompt + text for prompt, text in zip(prompts, texts, strict=True)))
    return 0
