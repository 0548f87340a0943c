"""`gpt serve` beside `transformers serve`: the same weights, the same client. `make bench`, or `python -m benchmarks.serving`.

Each server is a process of its own, and the others wait idle meanwhile. Clients ask for greedy answers, streamed, with prompts of
different lengths; tokens are counted as the servers send them. With continuous batching transformers answers many requests in a
step, where its attention runs on a processor; without, one after the other.
"""

import asyncio
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from openai import APIError, AsyncOpenAI

from flows.server import free_port
from gpt.finetuning.data.templates import TOKENS, template_source
from gpt.model.convert.huggingface import export_huggingface
from gpt.model.storage import save_model
from gpt.model.transformer import GPTConfig, GPTModel
from gpt.params.project import load_params
from gpt.tokens.encoding import CHAT_TEMPLATE
from gpt.tokens.tokenizer import build_tokenizer, extend_tokenizer

_STREAMS = (1, 4, 16)
_ROUNDS = 3
_NEW_TOKENS = 96
_START_SECONDS = 180.0
_TEXT = "to be or not to be that is the question whether tis nobler in the mind to suffer the slings and arrows"


@dataclass(frozen=True)
class Server:
    name: str
    address: str
    model: str


@dataclass
class Measured:
    """What a number of streams got from a server."""

    tokens_per_second: list[float]
    first_token_seconds: list[float]
    answers: list[str]

    @property
    def rate(self) -> float:
        return statistics.median(self.tokens_per_second)

    @property
    def late(self) -> float:
        """The time to the first token that 95 of 100 requests have not waited longer for."""
        return statistics.quantiles(self.first_token_seconds, n=20, method="inclusive")[-1]


def measure() -> list[str]:
    """Return a markdown table: tokens per second over all streams, and how late the first token is."""
    rows = [
        "| server | "
        + " | ".join(f"{count} stream{'s' * (count > 1)}: tok/s, first token p95" for count in _STREAMS)
        + " | 16 to 1 |",
        "| --- |" + " ---: |" * (len(_STREAMS) + 1),
    ]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        ours, theirs = make_models(Path(folder))
        servers = [running.enter_context(gpt_serve(ours))]
        for batching in (True, False):
            with suppress(TimeoutError):
                servers.append(running.enter_context(transformers_serve(theirs, continuous_batching=batching)))
        silent = [server.name for server in servers if not _answers(server)]  # which also warms it up
        servers = [server for server in servers if server.name not in silent]
        found = {server.name: {count: Measured([], [], []) for count in _STREAMS} for server in servers}
        for number in range(_ROUNDS):
            for server in servers if number % 2 else reversed(servers):
                for count in _STREAMS:
                    asyncio.run(_ask(server, count, found[server.name][count]))
    for name, measured in found.items():
        cells = [f"{each.rate:,.0f}, {each.late:.2f} s" for each in measured.values()]
        rows.append(f"| {name} | {' | '.join(cells)} | {measured[16].rate / measured[1].rate:.1f} × |")
    rows += [f"| {name} | answers nothing here |" + " |" * len(_STREAMS) for name in silent]
    ours_rate, *peers = (measured[16].rate for measured in found.values())
    rows += ["", f"At 16 streams: **{ours_rate / max(peers):.2f} ×** the best peer."]
    mine, *others = (measured[1].answers[0] for measured in found.values())
    rows.append(
        f"Greedy answers of one stream are the same: {'yes' if all(each == mine for each in others) else 'no'}."
    )
    print("\n".join(rows), flush=True)
    return rows


def make_models(folder: Path) -> tuple[Path, Path]:
    """Write a chat model of random weights to a folder, ours and as transformers loads it."""
    settings = load_params().tokenizer.model_copy(update={"vocab_size": 400})
    rng = random.Random(0)
    texts = [" ".join(rng.choices(_TEXT.split(), k=200)) + str(rng.random()) for _ in range(400)]
    build_tokenizer(settings, texts, folder / "plain")
    encoding = extend_tokenizer(folder / "plain", TOKENS["turns"], folder / "tokenizer")
    (folder / "tokenizer" / CHAT_TEMPLATE).write_text(template_source("turns"), encoding="utf-8")
    model = GPTModel(
        GPTConfig(
            encoding.n_vocab, n_layer=6, n_head=6, n_embd=384, block_size=512, bias=False, position="rotary",
            norm="rmsnorm", activation="swiglu",
        )
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(
                parameter, std=1.0 if "emb" in name else parameter.shape[1] ** -0.5, generator=generator
            )
    with torch.no_grad():  # special tokens have no text: a model that wrote them would have nothing to count
        special = [encoding.encode_single_token(name) for name in encoding.special_tokens_set]
        model.tok_emb.weight[special] = 0.0
    save_model(model, folder / "tokenizer", folder / "chat")
    export_huggingface(folder / "chat", folder / "export")
    return folder / "chat", folder / "export"


@contextmanager
def gpt_serve(model: Path) -> Iterator[Server]:
    port = free_port()
    with _process([sys.executable, "-m", "gpt", "serve", "--model", str(model), "--port", str(port)], port):
        yield Server("gpt serve", f"http://127.0.0.1:{port}", "chat")


@contextmanager
def transformers_serve(model: Path, *, continuous_batching: bool) -> Iterator[Server]:
    """Raise `TimeoutError` where it does not begin to answer."""
    port = free_port()
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(model), "--port", str(port)]
    command += ["--continuous-batching"] if continuous_batching else []
    with _process([*command, "--host", "127.0.0.1", "--device", "cpu", "--dtype", "float32"], port):
        name = "transformers serve" + (" --continuous-batching" if continuous_batching else "")
        yield Server(name, f"http://127.0.0.1:{port}", str(model))


@contextmanager
def _process(command: Sequence[str], port: int) -> Iterator[None]:
    with tempfile.TemporaryFile() as log:
        environment = os.environ | {"HF_HUB_OFFLINE": "1"}
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            deadline = time.monotonic() + _START_SECONDS
            while True:
                with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                    break
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise TimeoutError(f"{command}: {log.read().decode()[-2000:]}")
                time.sleep(0.2)
            yield
        finally:
            process.terminate()
            process.wait(timeout=60)


def _answers(server: Server) -> bool:
    """Whether a server writes anything on this machine."""
    measured = Measured([], [], [])
    with suppress(APIError):
        asyncio.run(_ask(server, 2, measured))
    return any(measured.answers)


async def _ask(server: Server, streams: int, measured: Measured) -> None:
    """Let so many clients ask at once, each twice in a row."""
    client = AsyncOpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0, timeout=600)

    async def ask(number: int) -> int:
        prompt = " ".join(random.Random(number).choices(_TEXT.split(), k=10 + 7 * number % 40))
        begun, first, tokens, text = time.perf_counter(), None, 0, ""
        async for chunk in await client.chat.completions.create(
            model=server.model, messages=[{"role": "user", "content": prompt}], temperature=0, max_tokens=_NEW_TOKENS,
            stream=True,
        ):  # fmt: skip
            said = chunk.choices[0].delta.content if chunk.choices else None
            if said:
                first = first or time.perf_counter()
                text += said
                tokens += 1
        measured.first_token_seconds.append((first or time.perf_counter()) - begun)
        measured.answers.append(text)
        return tokens

    async def ask_twice(number: int) -> int:
        return await ask(number) + await ask(number + 100)

    begun = time.perf_counter()
    tokens = sum(await asyncio.gather(*(ask_twice(number) for number in range(streams))))
    measured.tokens_per_second.append(tokens / (time.perf_counter() - begun))
    await client.close()


if __name__ == "__main__":
    measure()
