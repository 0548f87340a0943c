"""Our model as lm-eval's `LM`: any task of that library runs on it.

Texts become tokens as lm-eval makes them for models of Hugging Face, so that the same weights score the same there. One thing is
otherwise: what looks like a special token in a text is text.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from gpt.errors import UserError
from gpt.evaluation.benchmarks.continuations import Pair, encode_pair, score_continuations
from gpt.model.generation import generate_tokens
from gpt.model.sampling import Sampling
from gpt.model.transformer import GPTModel
from gpt.processes.agreement import Share
from gpt.tokens.encoding import Encoding

_ROWS = 32
"Texts that are generated at a time."
_MAX_GEN_TOKS = 256  # lm-eval's own
_KNOWN = {"until", "max_gen_toks", "do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty"}


class GPTLM(LM):
    """A GPTModel with its tokenizer. `autocast` is the type of its products, None for the weights' own.

    Processes with a `share` each ask for all answers, compute their part of them, and get all. To lm-eval each is the only one
    (`rank` 0 of a `world_size` of 1), so that what it makes of the answers is the same in all.
    """

    def __init__(
        self,
        model: GPTModel,
        encoding: Encoding,
        *,
        autocast: torch.dtype | None = None,
        share: Share | None = None,
    ) -> None:
        super().__init__()
        self._model, self._encoding, self._autocast, self._share = model, encoding, autocast, share or Share()
        self._device = model.tok_emb.weight.device

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Return of each (context, continuation) the log-likelihood in nats, and whether greedy decoding writes it."""
        found = self._score([encode_pair(self._encoding, *request.args) for request in requests])
        for request, answer in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, answer)
        return found

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Return the log-likelihood in nats of each text, from an <|endoftext|> on, in windows that do not overlap."""
        pairs: list[Pair] = []
        owners: list[int] = []
        for number, request in enumerate(requests):
            windows = get_rolling_token_windows(
                token_list=self._encoding.encode_ordinary(request.args[0]),
                prefix_token=self._encoding.eot_token,
                max_seq_len=self._model.config.block_size,
                context_len=1,
            )
            for window in windows:
                pairs.append(Pair(*make_disjoint_window(window)))
                owners.append(number)
        totals = [0.0] * len(requests)
        for number, (log_likelihood, _) in zip(owners, self._score(pairs), strict=True):
            totals[number] += log_likelihood
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Return a continuation of each (context, settings), until the first of its stop strings or <|endoftext|>."""
        asked: list[tuple[str, dict[str, Any]]] = [
            cast("tuple[str, dict[str, Any]]", request.args) for request in requests
        ]
        own: dict[int, str] = {}
        rank, ranks = self._share.part
        for rows in [*self._batches(asked)][rank::ranks]:
            contexts = [self._context(asked[row][0]) for row in rows]
            own |= zip(rows, self._generate(contexts, rows, asked[rows[0]][1]), strict=True)
        written = {row: text for part in self._share.gather(own) for row, text in part.items()}
        texts = [written[number] for number in range(len(requests))]
        for request, text in zip(requests, texts, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, text)
        return texts

    def _batches(self, asked: list[tuple[str, dict[str, Any]]]) -> Iterator[list[int]]:
        """Yield the numbers of (context, settings) that are generated together: sampled alike, and of like length."""
        same: dict[str, list[int]] = defaultdict(list)
        for number, (_, settings) in enumerate(asked):
            same[repr(sorted(settings.items()))].append(number)
        for numbers in same.values():
            numbers.sort(key=lambda number: -len(asked[number][0]))
            yield from (numbers[first : first + _ROWS] for first in range(0, len(numbers), _ROWS))

    def _context(self, text: str) -> list[int]:
        return [self._encoding.eot_token, *self._encoding.encode_ordinary(text)]

    def _score(self, pairs: Sequence[Pair]) -> list[tuple[float, bool]]:
        part = score_continuations(self._model, pairs, autocast=self._autocast, part=self._share.part)
        return [(-float(nats), not misses) for nats, misses in zip(*self._share.add_up(part.to_array()), strict=True)]

    def _generate(self, contexts: list[list[int]], seeds: list[int], settings: dict[str, Any]) -> list[str]:
        wanted: dict[str, Any] = dict(normalize_gen_kwargs(settings, _MAX_GEN_TOKS))
        if unknown := sorted(wanted.keys() - _KNOWN):
            raise UserError(
                f"generation_kwargs: {', '.join(unknown)} is not known; known are {', '.join(sorted(_KNOWN))}"
            )
        stops = [stop for stop in wanted["until"] if stop]
        sampling = Sampling(
            wanted["max_gen_toks"],
            repetition_penalty=wanted.get("repetition_penalty", 1.0),
            temperature=wanted.get("temperature", 0.0) if wanted["do_sample"] else 0.0,
            top_k=wanted.get("top_k", 0),
            top_p=wanted.get("top_p", 1.0),
            min_p=wanted.get("min_p", 0.0),
        )
        # Room for what is written, as lm-eval leaves it; where that would leave nothing, generation drops old tokens itself.
        block_size = self._model.config.block_size
        room = block_size - sampling.max_new_tokens
        contexts = [context[-(room if room > 0 else block_size) :] for context in contexts]
        written: list[list[int]] = [[] for _ in contexts]
        tail = 1 + max((len(stop.encode()) for stop in stops), default=0)  # a token has a byte at least

        def ends(row: int, token: int) -> bool:
            if token == self._encoding.eot_token:
                return True
            written[row].append(token)
            last = self._encoding.decode(written[row][-tail:])
            return any(stop in last for stop in stops)

        for _ in generate_tokens(self._model, contexts, sampling, seeds=seeds, ends=ends):
            pass
        texts = [self._encoding.decode(tokens) for tokens in written]
        return [min((text.split(stop)[0] for stop in stops), key=len, default=text) for text in texts]
