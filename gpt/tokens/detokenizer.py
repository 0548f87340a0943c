"""Tokens to text as they come one by one: what cannot be told yet is held back."""

import codecs
from collections.abc import Collection, Sequence

from gpt.tokens.encoding import Encoding


class Detokenizer:
    """Decodes a row's tokens as they come; holds back incomplete UTF-8 and what may become a stop string.

    `ends` are the tokens that end the text, <|endoftext|> if they are not given; `silent` are those that have no text.
    """

    def __init__(
        self,
        encoding: Encoding,
        stop: Sequence[str],
        *,
        ends: Collection[int] | None = None,
        silent: Collection[int] = (),
    ) -> None:
        self.over = False
        self.taken = 0
        "Characters that `take` has returned."
        self._encoding, self._stop, self._silent = encoding, stop, silent
        self._ends = {encoding.eot_token} if ends is None else ends
        self._characters = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._ready, self._held = "", ""

    @property
    def length(self) -> int:
        """Characters of the text so far, with those that are held back."""
        return self.taken + len(self._ready) + len(self._held)

    def add(self, token: int) -> bool:
        """Take the next token; return whether the text is over."""
        if token in self._ends:
            self.finish()
        elif token not in self._silent:
            self._extend(self._characters.decode(self._encoding.decode_single_token_bytes(token)))
        return self.over

    def finish(self) -> None:
        """End the text: what was held back belongs to it."""
        if not self.over:
            self._extend(self._characters.decode(b"", final=True))
        self._ready, self._held, self.over = self._ready + self._held, "", True

    def take(self) -> str:
        """Return the text that was completed since the last call."""
        piece, self._ready = self._ready, ""
        self.taken += len(piece)
        return piece

    def _extend(self, new: str) -> None:
        text = self._held + new
        # The stop string that is complete first; of two that end at the same place, the longer.
        found = [(text.find(stop) + len(stop), text.find(stop)) for stop in self._stop if stop in text]
        if found:
            self._ready, self._held, self.over = self._ready + text[: min(found)[1]], "", True
            return
        longest = max((len(stop) - 1 for stop in self._stop), default=0)
        held = next(
            (n for n in range(min(longest, len(text)), 0, -1) if any(s.startswith(text[-n:]) for s in self._stop)), 0
        )
        certain = len(text) - held
        self._ready, self._held = self._ready + text[:certain], text[certain:]
