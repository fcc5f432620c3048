"""Prometheus metrics of a worker and its volume, in the text format, for node_exporter's textfile collector.

Runs are short-lived, so everything comes from the volume: the worker's counters, the records of the last scrub and
refresh, and what is stored. Directories are listed and blobs are looked at; no blob, manifest or usage record is read.
Times are those of events, in seconds since 1970: `time() - x` is how long ago.

`paddock.serving.metrics` has the metrics of a server.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from paddock.errors import PaddockError
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.upkeep.last_runs import StoreName, last_refresh, last_scrub
from paddock.lifecycle.upkeep.refresh.outcome import RefreshOutcome
from paddock.store.volume.counters import CounterName
from paddock.version import VERSION

_LOG = logging.getLogger(__name__)
_COUNTERS: dict[CounterName, tuple[str, str]] = {
    "received_bytes": ("origin", "Bytes of files received over the network"),
    "received_seconds": ("origin", "Duration of the transfers of files"),
    "failures": ("kind", "Failed tries of steps, and failed servers, by the class of the error"),
    "evicted_snapshots": ("store", "Snapshots removed to free space or by retention"),
    "evicted_bytes": ("store", "Bytes that the removals freed"),
}
"""The label of each counter of the volume, and its description."""
_STORES: tuple[StoreName, ...] = get_args(StoreName)


@dataclass(frozen=True, slots=True, eq=False)
class WorkerMetrics(Collector):
    """Metrics that were read at one time. Those that could not be read have no samples."""

    families: Sequence[Metric]

    def collect(self) -> Iterable[Metric]:
        return self.families

    @property
    def text(self) -> str:
        """The metrics in Prometheus's text format."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return generate_latest(registry).decode()

    def to_json(self) -> dict[str, Any]:
        metrics = [
            {
                "name": family.name,
                "type": family.type,
                "help": family.documentation,
                "samples": [{"name": one.name, "labels": one.labels, "value": one.value} for one in family.samples],
            }
            for family in self.families
        ]
        return {"metrics": metrics}


def read_worker_metrics(clients: Clients) -> WorkerMetrics:
    """Read the metrics of this machine and its volume. A group that cannot be read is logged and has no samples, and
    `paddock_worker_unread_groups` says how many there are."""
    families, unread = [_info(clients)], 0
    for group in (_counters, _volume, _scrubs, _refresh):
        found, problem = group(clients)
        families += found
        if problem is not None:
            unread += 1
            _LOG.warning("some metrics cannot be read: %s", problem.message)
    unread_groups = GaugeMetricFamily("paddock_worker_unread_groups", "Groups of these metrics that cannot be read")
    unread_groups.add_metric([], unread)
    return WorkerMetrics([*families, unread_groups])


_Group = tuple[list[Metric], PaddockError | None]


def _info(clients: Clients) -> Metric:
    info = GaugeMetricFamily(
        "paddock_worker_info", "The worker, and its version of Paddock", labels=["worker", "version"]
    )
    info.add_metric([clients.volume.usage.worker, VERSION], 1)
    return info


def _counters(clients: Clients) -> _Group:
    families = {
        name: CounterMetricFamily(f"paddock_{name}", description, labels=[label])
        for name, (label, description) in _COUNTERS.items()
    }
    try:
        counts = clients.volume.counters.read()
    except PaddockError as error:
        return list(families.values()), error
    for name, family in families.items():
        for label, value in counts[name].items():
            family.add_metric([label], value)
    return list(families.values()), None


def _volume(clients: Clients) -> _Group:
    volume = clients.volume
    return _gauges(
        [
            ("paddock_volume_stored_bytes", "Size of the stored files, each counted once", volume.blob_bytes),
            ("paddock_volume_free_bytes", "Free space on the volume's disk", volume.disk.free_bytes),
            ("paddock_volume_size_bytes", "Size of the volume's disk", volume.disk.total_bytes),
            ("paddock_volume_snapshots", "Snapshots on the volume", lambda: len(volume.ids())),
            (
                "paddock_volume_quarantined_files",
                "Damaged copies of files in the quarantine",
                volume.space.quarantined_files,
            ),
        ]
    )


def _gauges(figures: Iterable[tuple[str, str, Callable[[], float]]]) -> _Group:
    families, problem = list[Metric](), None
    for name, description, read in figures:
        family = GaugeMetricFamily(name, description)
        families.append(family)
        try:
            family.add_metric([], read())
        except PaddockError as error:
            problem = error
    return families, problem


def _scrubs(clients: Clients) -> _Group:
    gauge = partial(GaugeMetricFamily, labels=["store"])
    ended = gauge("paddock_scrub_end_timestamp_seconds", "When the last scrub of a store ended")
    seconds = gauge("paddock_scrub_duration_seconds", "Duration of the last scrub")
    read_bytes = gauge("paddock_scrub_read_bytes", "Bytes that the last scrub read")
    complete = gauge("paddock_scrub_complete", "1 if the last scrub left nothing to read to the next one")
    damaged = gauge("paddock_scrub_damaged_files", "Files that the last scrub found damaged")
    repaired = gauge("paddock_scrub_repaired_files", "Files that the last scrub found damaged and repaired")
    families: list[Metric] = [ended, seconds, read_bytes, complete, damaged, repaired]
    for store in _STORES:
        try:
            record = last_scrub(clients, store)
        except PaddockError as error:
            return families, error
        if record is not None:
            ended.add_metric([store], record.at.timestamp())
            seconds.add_metric([store], record.seconds)
            read_bytes.add_metric([store], record.read_bytes)
            complete.add_metric([store], record.complete)
            damaged.add_metric([store], record.damaged)
            repaired.add_metric([store], record.repaired)
    return families, None


def _refresh(clients: Clients) -> _Group:
    ended = GaugeMetricFamily("paddock_refresh_end_timestamp_seconds", "When the last refresh of the catalog ended")
    entries = GaugeMetricFamily(
        "paddock_refresh_entries", "Entries of the catalog by outcome of the last refresh", labels=["outcome"]
    )
    failures = GaugeMetricFamily(
        "paddock_refresh_required_failures", "Entries that the catalog requires and that failed in the last refresh"
    )
    families: list[Metric] = [ended, entries, failures]
    try:
        record = last_refresh(clients)
    except PaddockError as error:
        return families, error
    if record is not None:
        ended.add_metric([], record.at.timestamp())
        failures.add_metric([], record.failures)
        for outcome in RefreshOutcome:
            entries.add_metric([outcome.value], record.outcomes.get(outcome.value, 0))
    return families, None
