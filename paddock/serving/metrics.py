"""What Prometheus is told. The names are those that dashboards of language model servers know (vLLM's, after our own
prefix): requests running and waiting, prompt and generation tokens, time to first token, time per output token, and
the latency from end to end. Each server adds its own behind them."""

from __future__ import annotations

import logging
from collections import Counter as Counts

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

_LOG = logging.getLogger(__name__)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_FIRST_TOKEN_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_TOKEN_S = (0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1, 2.5)
_REQUEST_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)


class Metrics:
    """Of one server. Times are seconds."""

    def __init__(self, *, model: str, server: str) -> None:
        self._registry = registry = CollectorRegistry()
        Gauge("paddock_info", "What is served, and by what", ["model", "server"], registry=registry).labels(
            model, server
        ).set(1)
        self.running = Gauge("paddock_num_requests_running", "Requests at the engine", registry=registry)
        self.waiting = Gauge("paddock_num_requests_waiting", "Requests in the queue", registry=registry)
        self.requests = Counter("paddock_requests", "Requests by path and status", ["path", "code"], registry=registry)
        self.prompt_tokens = Counter("paddock_prompt_tokens", "Tokens of prompts", registry=registry)
        self.generation_tokens = Counter("paddock_generation_tokens", "Tokens of answers", registry=registry)
        self.first_token_s = Histogram(
            "paddock_time_to_first_token_seconds",
            "From the request to its first text, of streams",
            buckets=_FIRST_TOKEN_S,
            registry=registry,
        )
        self.per_token_s = Histogram(
            "paddock_time_per_output_token_seconds",
            "Between the texts of a stream, a mean for each",
            buckets=_TOKEN_S,
            registry=registry,
        )
        self.request_s = Histogram(
            "paddock_e2e_request_latency_seconds",
            "From the request to the end of its answer",
            buckets=_REQUEST_S,
            registry=registry,
        )
        self.queue_s = Histogram(
            "paddock_request_queue_time_seconds", "In the queue", buckets=_FIRST_TOKEN_S, registry=registry
        )
        self.up = Gauge("paddock_engine_up", "1 while the engine is ready", registry=registry)
        self._restarts = Counter("paddock_engine_restarts", "Restarts of the engine", registry=registry)
        self._counted_restarts = 0
        self.resident_bytes = Gauge("paddock_engine_resident_bytes", "Memory of the engine", registry=registry)
        self.held_bytes = Gauge(
            "paddock_engine_held_bytes", "Memory of the engine, without what it maps from files", registry=registry
        )
        self.planned_bytes = Gauge("paddock_engine_planned_bytes", "Memory that was planned", registry=registry)
        self.load_s = Gauge("paddock_engine_load_seconds", "The last load of the model", registry=registry)

    def set_restarts(self, total: int) -> None:
        """`total` restarts since the server began. It never falls."""
        self._restarts.inc(total - self._counted_restarts)
        self._counted_restarts = total

    def text(self, engine: str = "") -> str:
        """The page, with the engine's own page behind ours where it has one.

        Prometheus refuses a page as a whole for one line that is no metric, or one that is there twice. What the
        engine says is left out, and logged, where it does not parse or names a metric of ours.
        """
        own = generate_latest(self._registry).decode()
        if not engine:
            return own
        page = own + engine.rstrip("\n") + "\n"
        problem = _problem(page)
        if problem:
            _LOG.warning("the engine's own metrics are left out: %s", problem)
            return own
        return page


def _problem(page: str) -> str | None:
    """Why Prometheus would refuse a page; None where it would not."""
    try:
        families = list(text_string_to_metric_families(page))
    except ValueError as error:
        return f"they do not parse ({str(error)[:100]})"
    names = Counts(family.name for family in families)
    samples = Counts((one.name, *sorted(one.labels.items())) for family in families for one in family.samples)
    twice = [name for name, number in names.items() if number > 1] + [one[0] for one, n in samples.items() if n > 1]
    return f"{twice[0]} is there twice" if twice else None
