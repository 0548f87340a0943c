"""The engine: answers many requests at once, each step a token of every one that is running.

A step is one pass of the model over all that the scheduler has chosen. What a request is answered depends on its prompt, its
settings and its seed, not on its neighbours, up to the last bits of floating point.
"""

import time
from collections import deque

import torch

from gpt.model.decoder import Decoder
from gpt.model.sampling import Sampling, choose_tokens
from gpt.model.transformer import GPTModel
from gpt.serving.engine.cache import BLOCK, BlockCache
from gpt.serving.engine.request import Likelihood, Piece, Request
from gpt.serving.engine.scheduler import Reading, Scheduler
from gpt.tokens.encoding import Encoding


class Engine:
    """Answers requests with one model. `step` is called by one thread; `add` by any."""

    def __init__(
        self,
        model: GPTModel,
        encoding: Encoding,
        *,
        max_running: int = 16,
        cache_tokens: int | None = None,
        step_tokens: int = 256,
    ) -> None:
        """`cache_tokens` bounds the KV cache (a full context of each running request, if not given), `step_tokens` a step."""
        self.context = model.config.block_size
        room = max_running * self.context if cache_tokens is None else max(cache_tokens, self.context)
        self.cache = BlockCache(model, -(-room // BLOCK))
        self.scheduler = Scheduler(self.cache, max_running, max(step_tokens, max_running))
        self._decoder = Decoder(model.eval())
        self._model, self._encoding = model, encoding
        self._arrived: deque[Request] = deque()

    def add(self, request: Request) -> None:
        """Let a request wait for its turn."""
        self._arrived.append(request)

    @property
    def is_idle(self) -> bool:
        return not (self._arrived or self.scheduler.waiting or self.scheduler.running)

    @property
    def waiting(self) -> int:
        """Requests that no step has read anything of."""
        return len(self._arrived) + len(self.scheduler.waiting)

    @torch.inference_mode()
    def step(self) -> list[Piece]:
        """Read the next tokens of all requests that there is room for; return what that adds to their answers."""
        while self._arrived:
            self.scheduler.waiting.append(self._arrived.popleft())
        pieces = self._give_up()
        readings = self.scheduler.schedule()
        if not readings:
            return pieces
        logits = self._read(readings)  # (W, vocab_size), of those of which the next token follows
        requests = [reading.request for reading in readings if reading.reads_last]
        for reading in readings:
            reading.request.read += reading.count
        if requests:
            pieces += self._write(requests, logits)
        return pieces

    def fail(self) -> list[Piece]:
        """Give up every request, after an error that is not theirs."""
        everyone = [*self._arrived, *self.scheduler.waiting, *self.scheduler.running]
        self._arrived.clear()
        for request in everyone:
            if request in self.scheduler.waiting or request in self.scheduler.running:
                self.scheduler.remove(request)
        return [request.give_up("failure") for request in everyone]

    def _give_up(self) -> list[Piece]:
        """Forget requests whose clients have left, and those that have taken too long."""
        pieces: list[Piece] = []
        now = time.monotonic()
        for request in [*self.scheduler.waiting, *self.scheduler.running]:
            if request.left or now > request.deadline:
                self.scheduler.remove(request)
                pieces.append(request.give_up("timeout"))
        return pieces

    def _read(self, readings: list[Reading]) -> torch.Tensor:
        device = self._model.tok_emb.weight.device
        self.cache.plan([reading.span for reading in readings])
        tokens: list[int] = []
        wanted: list[int] = []
        for reading in readings:
            tokens += reading.request.tokens[reading.span.start : reading.span.end]
            if reading.reads_last:
                wanted.append(len(tokens) - 1)
        index = torch.tensor(wanted, device=device, dtype=torch.long)
        return self._decoder(torch.tensor(tokens, device=device), self.cache, index).float()

    def _write(self, requests: list[Request], logits: torch.Tensor) -> list[Piece]:
        """Choose each request's next token from its logits."""
        alike: dict[Sampling, list[int]] = {}
        for row, request in enumerate(requests):
            alike.setdefault(request.choice, []).append(row)
        chosen = torch.empty(len(requests), dtype=torch.long)
        for sampling, rows in alike.items():
            generators = [requests[row].generator for row in rows]
            seen = self._seen([requests[row] for row in rows]) if sampling.repetition_penalty != 1 else None
            chosen[rows] = choose_tokens(logits[rows], sampling, seen, generators).cpu()
        tokens = chosen.tolist()
        likelihoods = self._likelihoods(requests, tokens, logits)
        pieces: list[Piece] = []
        for row, (request, token) in enumerate(zip(requests, tokens, strict=True)):
            piece = request.extend(token, likelihoods.get(row), self.context)
            if piece.finish:
                self.scheduler.remove(request)
            if piece.finish or piece.text or piece.tokens:
                pieces.append(piece)
        return pieces

    def _seen(self, requests: list[Request]) -> torch.Tensor:
        seen = torch.zeros(len(requests), self._model.config.vocab_size, dtype=torch.bool)
        for row, request in enumerate(requests):
            seen[row, request.tokens] = True
        return seen.to(self._model.tok_emb.weight.device)

    def _likelihoods(self, requests: list[Request], tokens: list[int], logits: torch.Tensor) -> dict[int, Likelihood]:
        """Return, by row, how likely the tokens of those requests were that ask for it."""
        rows = [row for row, request in enumerate(requests) if request.alternatives is not None]
        if not rows:
            return {}
        logprobs = logits[rows].log_softmax(-1)
        most = max(requests[row].alternatives or 0 for row in rows)
        best, ids = (each.tolist() for each in logprobs.topk(min(most, logprobs.shape[-1])))
        content = self._encoding.decode_single_token_bytes
        found: dict[int, Likelihood] = {}
        for place, row in enumerate(rows):
            count = requests[row].alternatives or 0
            alternatives = zip(ids[place][:count], best[place][:count], strict=True)
            found[row] = Likelihood(
                content(tokens[row]),
                float(logprobs[place, tokens[row]]),
                requests[row].detokenizer.length,
                tuple((content(token), logprob) for token, logprob in alternatives),
            )
        return found
