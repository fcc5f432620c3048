"""Prometheus metrics of the server.

The names are those that dashboards of language model servers use (vLLM's, with the prefix `paddock_`): requests running
and waiting, prompt and generation tokens, time to first token, time per output token, end-to-end latency. The engine's
own metrics, where it has any, follow them.
"""

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
    """Metrics of one server. Times are in seconds."""

    def __init__(self, *, model: str, server: str) -> None:
        self._model, self._server = model, server
        self._registry = registry = CollectorRegistry()
        names = ["model", "variant", "revision", "server"]
        self._info = Gauge("paddock_info", "Model and server that serve", names, registry=registry)
        self.running = Gauge("paddock_num_requests_running", "Requests that the engine is answering", registry=registry)
        self.waiting = Gauge("paddock_num_requests_waiting", "Requests in the queue", registry=registry)
        self.requests = Counter("paddock_requests", "Requests by path and status", ["path", "code"], registry=registry)
        self.prompt_tokens = Counter("paddock_prompt_tokens", "Prompt tokens processed", registry=registry)
        self.generation_tokens = Counter("paddock_generation_tokens", "Tokens generated", registry=registry)
        self.first_token_s = Histogram(
            "paddock_time_to_first_token_seconds",
            "Time from a request to the first text of its stream",
            buckets=_FIRST_TOKEN_S,
            registry=registry,
        )
        self.per_token_s = Histogram(
            "paddock_time_per_output_token_seconds",
            "Mean time between the texts of a stream",
            buckets=_TOKEN_S,
            registry=registry,
        )
        self.request_s = Histogram(
            "paddock_e2e_request_latency_seconds",
            "Time from a request to the end of its answer",
            buckets=_REQUEST_S,
            registry=registry,
        )
        self.queue_s = Histogram(
            "paddock_request_queue_time_seconds", "Time in the queue", buckets=_FIRST_TOKEN_S, registry=registry
        )
        self.up = Gauge("paddock_engine_up", "1 while the engine is ready", registry=registry)
        self._restarts = Counter("paddock_engine_restarts", "Restarts of the engine", registry=registry)
        self._counted_restarts = 0
        self.switches = Counter(
            "paddock_switches", "Switches to another revision by result (done, failed)", ["result"], registry=registry
        )
        self.watching = Gauge("paddock_watch_active", "1 while a new revision is watched", registry=registry)
        self.watch_ratio = Gauge(
            "paddock_watch_ratio",
            "Figure of the revision that is watched, or was watched last, divided by that of the revision before",
            ["figure"],
            registry=registry,
        )
        self.rollbacks = Counter(
            "paddock_rollbacks",
            "Promotions that this server found worse, by result (rolled-back, overtaken, refused)",
            ["result"],
            registry=registry,
        )
        self.resident_bytes = Gauge("paddock_engine_resident_bytes", "Resident memory of the engine", registry=registry)
        self.held_bytes = Gauge(
            "paddock_engine_held_bytes", "Resident memory of the engine, without mapped files", registry=registry
        )
        self.planned_bytes = Gauge("paddock_engine_planned_bytes", "Memory that the plan expects", registry=registry)
        self.load_s = Gauge("paddock_engine_load_seconds", "Duration of the last load of the model", registry=registry)

    def set_revision(self, variant: str, revision: str) -> None:
        """Set the variant and revision that are served now."""
        self._info.clear()
        self._info.labels(self._model, variant, revision, self._server).set(1)

    def set_restarts(self, total: int) -> None:
        """Set the number of restarts since the server started; it must never decrease."""
        self._restarts.inc(total - self._counted_restarts)
        self._counted_restarts = total

    def text(self, engine: str = "") -> str:
        """Return the page in Prometheus's text format, followed by the engine's own page, if any.

        Prometheus rejects the whole page for one line that is not a metric or is a duplicate. So the engine's page is
        left out, with a warning in the log, if it does not parse or repeats one of our metrics.
        """
        own = generate_latest(self._registry).decode()
        if not engine:
            return own
        page = own + engine.rstrip("\n") + "\n"
        problem = _problem(page)
        if problem:
            _LOG.warning("the engine's own metrics are omitted: %s", problem)
            return own
        return page


def _problem(page: str) -> str | None:
    """Return why Prometheus would reject a page, or None."""
    try:
        families = list(text_string_to_metric_families(page))
    except ValueError as error:
        return f"they do not parse ({str(error)[:100]})"
    names = Counts(family.name for family in families)
    samples = Counts(
        (str(sample.name), tuple(sorted(sample.labels.items()))) for family in families for sample in family.samples
    )
    duplicates = [name for name, count in names.items() if count > 1]
    duplicates += [name for (name, _), count in samples.items() if count > 1]
    return f"{duplicates[0]} is there more than once" if duplicates else None
