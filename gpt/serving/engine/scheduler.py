"""Which tokens of which requests the next step reads.

A request waits until there is room, then runs: its prompt is read in chunks, then one token a step. Where the cache has no block
left for a running one, the youngest gives up its own and waits again, in front; it is read again later and goes on as if nothing
had happened.

    waiting ──admit──► running (prompt in chunks ─► one token a step) ──► over
       ▲                  │
       └────preempt───────┘
"""

from collections import deque
from dataclasses import dataclass

from gpt.serving.engine.cache import BLOCK, BlockCache, Span
from gpt.serving.engine.request import Request


@dataclass(frozen=True)
class Reading:
    """The next tokens of a request that a step reads."""

    request: Request
    count: int

    @property
    def span(self) -> Span:
        return Span(self.request.blocks, self.request.read, self.count)

    @property
    def reads_last(self) -> bool:
        """Whether the next token follows from it: no token is left to read."""
        return self.request.read + self.count == len(self.request.tokens)


class Scheduler:
    """Decides over a cache for at most `max_running` requests at once, and `step_tokens` tokens a step."""

    def __init__(self, cache: BlockCache, max_running: int, step_tokens: int) -> None:
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        "In the order in which they came in."
        self.preemptions = 0
        self._cache, self._max_running, self._step_tokens = cache, max_running, step_tokens

    def schedule(self) -> list[Reading]:
        """Return what the next step reads: first of those that write, then prompts, then of who waits."""
        singles = self._continue()
        room = max(0, self._step_tokens - len(singles))
        chunks: list[Reading] = []
        for request in [request for request in self.running if _unread(request) > 1]:
            room -= self._read_chunk(request, room, chunks)
        while self.waiting and room and len(self.running) < self._max_running:
            # With all the blocks that its prompt needs: two that had a half each would wait for one another.
            if not self._grow(self.waiting[0], _unread(self.waiting[0])):
                break
            self.running.append(self.waiting.popleft())
            room -= self._read_chunk(self.running[-1], room, chunks)
        chunks.sort(key=lambda reading: reading.count > 1)  # a prompt of one token stands with the singles
        return singles + chunks

    def remove(self, request: Request) -> None:
        """Forget a request that is over, or that nobody waits for, and free its blocks."""
        if request in self.running:
            self.running.remove(request)
        else:
            self.waiting.remove(request)
        self._cache.give_back(request.blocks)

    def _continue(self) -> list[Reading]:
        """Return a reading of the last token of every request that has read all others, the oldest first."""
        readings: list[Reading] = []
        for request in list(self.running):
            if _unread(request) > 1 or request not in self.running:  # a prompt, or preempted for an older one
                continue
            while request in self.running and not self._grow(request, 1):
                self._preempt(self.running[-1])
            if request in self.running:
                readings.append(Reading(request, 1))
        return readings

    @staticmethod
    def _read_chunk(request: Request, room: int, chunks: list[Reading]) -> int:
        """Add as much of a prompt as there is room for; return how much."""
        count = min(_unread(request), room)
        if count:
            chunks.append(Reading(request, count))
        return count

    def _grow(self, request: Request, count: int) -> bool:
        """Give a request the blocks for its next tokens; False, and none, if there are too few."""
        needed = -(-(request.read + count) // BLOCK) - len(request.blocks)
        if needed > self._cache.free:
            return False
        request.blocks += [self._cache.take() for _ in range(needed)]
        return True

    def _preempt(self, request: Request) -> None:
        self.preemptions += 1
        self._cache.give_back(request.blocks)
        request.read = 0
        self.running.remove(request)
        self.waiting.appendleft(request)


def _unread(request: Request) -> int:
    return len(request.tokens) - request.read
