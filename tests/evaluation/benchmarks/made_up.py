"""A small model, a tokenizer that texts train, and items made of them: what the tests of benchmarks share."""

import random
from pathlib import Path

import orjson

from gpt.evaluation.benchmarks.items import Benchmark
from gpt.model.storage import save_model
from gpt.model.transformer import GPTConfig, GPTModel
from gpt.params.tokens import Tokenizer
from gpt.sources.items import Choice, Item
from gpt.tokens.tokenizer import build_tokenizer

WORDS = [
    "the",
    "queen",
    "don't",
    "I'LL",
    "über-naïve",
    "漢字",
    "42",
    "3.14",
    "😀",
    "<|endoftext|>",
    "crown",
    "\n",
    "sword,",
]


def text(seed: int, words: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def make_model(folder: Path, *, block_size: int = 32, sharpness: float = 4.0) -> Path:
    """Write a GPT-2 of random weights to `folder`; `sharpness` scales its embeddings, so that no two tokens are alike."""
    build_tokenizer(
        Tokenizer(kind="bpe", vocab_size=300, train_bytes=10**6, special_tokens=()),
        [text(n, 200) for n in range(50)],
        folder / "tokens",
    )
    model = GPTModel(GPTConfig(300, n_layer=2, n_head=2, n_embd=32, block_size=block_size))
    model.init_weights(3)
    model.tok_emb.weight.data *= sharpness
    save_model(model, folder / "tokens", folder / "model")
    return folder / "model"


def make_items(name: str, count: int, choices: int, *, split: str = "validation", longest: int = 12) -> list[Item]:
    draw = random.Random(name + split)
    made = []
    for number in range(count):
        context = text(draw.randrange(10**9), draw.randint(1, longest)) + draw.choice(["", "", " ", "\nAnswer:"])
        texts = [" " + text(draw.randrange(10**9), draw.randint(1, longest)) for _ in range(choices)]
        made.append(
            Item(
                id=f"{name}/{split}/{number}",
                benchmark=name,
                split=split,
                choices=tuple(Choice(context, each) for each in texts),
                answer=draw.randrange(choices),
                texts=(f"{name} {split} {number}",),
            )
        )
    return made


def benchmark(name: str, count: int, choices: int) -> Benchmark:
    return Benchmark(name, make_items(name, count, choices), [number % 3 > 0 for number in range(count)])


def write_items(folder: Path, items: list[Item]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for item in items:
        with (folder / f"{item.benchmark}.jsonl").open("ab") as file:
            file.write(orjson.dumps(item, option=orjson.OPT_APPEND_NEWLINE))
