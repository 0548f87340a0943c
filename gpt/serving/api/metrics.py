"""What Prometheus reads at /metrics, by the names that it recommends: seconds, totals, and what is in use now."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Of one server; `running`, `waiting` and `cache_used` are asked when somebody reads."""

    def __init__(
        self, running: Callable[[], float], waiting: Callable[[], float], cache_used: Callable[[], float]
    ) -> None:
        self._registry = CollectorRegistry()
        registry = self._registry
        self.replies = Counter("gpt_replies", "Replies by route and status.", ("route", "status"), registry=registry)
        self.tokens = Counter("gpt_tokens", "Tokens read and written.", ("kind",), registry=registry)
        self.first_token = Histogram(
            "gpt_time_to_first_token_seconds", "From a request's arrival to its first token.",
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "gpt_request_seconds", "From a request's arrival to the end of its answer.",
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        gauges = {
            "gpt_requests_running": ("Requests that are answered now.", running),
            "gpt_requests_waiting": ("Requests that wait for their turn.", waiting),
            "gpt_cache_used_ratio": ("Share of the key-value cache that requests hold.", cache_used),
        }
        for name, (text, ask) in gauges.items():
            Gauge(name, text, registry=registry).set_function(ask)

    def read(self) -> bytes:
        """Return all of it in Prometheus' text format."""
        return generate_latest(self._registry)
