"""Store the benchmarks of a snapshot: the one that stands, and each one beside those before.

    benchmark.json                                                  the result that stands
    benchmark-<UTC time>-<machine>-<context>-<reliable>-<8 hex>.json    one result, never replaced by another one

Both are reports (`paddock.lifecycle.reports`). Each result has a report of its own, whose name follows from what was
measured: any number of processes and machines may write at once, without a lock and without losing one. Their number is
bounded: `KEPT_OF_A_KIND` for each machine, context and reliability, and `KEPT` in all, of which those that are not
reliable and then the oldest go first.

The result that *stands* for a snapshot is, of all that were measured, one whose context is nearest to that of the plan,
of these one that is reliable, and of these the newest. So neither a result for another context nor one that was
disturbed replaces it. A result that is not promoted replaces none that is: reports belong to a snapshot.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any, Final

from paddock.lifecycle import reports
from paddock.lifecycle.assess.validate import read_validation
from paddock.lifecycle.clients import Clients
from paddock.measure.benchmark_report import Benchmark
from paddock.model.artifact import Manifest
from paddock.planning.profile import PROFILES
from paddock.store.protocol import Store, has_snapshot

BENCHMARK: Final = "benchmark.json"
KEPT_OF_A_KIND: Final = 8
KEPT: Final = 96

_NAME = re.compile(
    r"benchmark-(?P<at>[0-9]{8}T[0-9]{6}Z)-(?P<machine>[0-9a-f]{12})-(?P<context>[0-9]{1,9})"
    r"-(?P<reliable>reliable|disturbed)-[0-9a-f]{8}\.json"
)
_TIME_SIGNS = re.compile(r"[-:]")
_MAX_FIGURE: Final = 1e9
_MAX_CONTEXT_TOKENS: Final = 2**27
_UNDATED = "1970-01-01T00:00:00"
_ANY = re.compile(rf"{re.escape(BENCHMARK)}|{_NAME.pattern}")


def record_benchmark(clients: Clients, manifest: Manifest, measured: Benchmark) -> None:
    """Write a result beside the others, and in place of the one that stands unless that is the better one. On a volume
    that cannot be written, nothing is recorded, which is said once. Sends no request."""
    local = replace(clients, remote=None)
    with clients.volume.recording():
        reports.write(local, manifest, report_name(measured), measured.to_json())
        current = reports.read(local, manifest, BENCHMARK, _parse)
        if current is None or stands_before(local, manifest, measured, current):
            reports.write(local, manifest, BENCHMARK, measured.to_json())
        _prune(clients.volume, manifest)


def share_benchmarks(clients: Clients, manifest: Manifest) -> str | None:
    """Copy the results of the volume to the remote store, for workers with another volume, and return the address of
    one. None where there is none, or no remote store that has the snapshot."""
    remote = clients.remote
    if remote is None or not has_snapshot(remote, manifest.id):
        return None
    shared = remote.report_names(manifest.id)
    own = [name for name in clients.volume.report_names(manifest.id) if _NAME.fullmatch(name)]
    beyond = surplus([*{*shared, *own}])
    where = None
    for name in own:
        is_missing = name not in shared and name not in beyond
        if is_missing or name == own[-1]:  # a load test may have been added to the last one
            where = reports.share(clients, manifest, name)
    on_volume = reports.read(replace(clients, remote=None), manifest, BENCHMARK, _parse)
    standing = read_benchmark(clients, manifest)
    if on_volume is not None and standing is not None and report_name(on_volume) == report_name(standing):
        where = reports.share(clients, manifest, BENCHMARK)
    _prune(remote, manifest)
    return where


def benchmark_history(clients: Clients, manifest: Manifest) -> tuple[Benchmark, ...]:
    """All stored results of a snapshot, of every machine, oldest first."""
    found: dict[str, tuple[str, Benchmark]] = {}
    for at, result in reports.read_all(clients, manifest, _ANY, _parse):
        key = report_name(result)
        if key not in found or found[key][0] <= at:  # a result whose load test was added later is the fuller one
            found[key] = (at, result)
    dated = sorted(found.values(), key=lambda one: (one[1].measured_at or "", one[0]))
    return tuple(result for _, result in dated)


def newest_benchmark(clients: Clients, manifest: Manifest, machine: str | None) -> Benchmark | None:
    """The newest stored result of a machine, by its identity, else of any. Reads one report of each store, where
    `benchmark_history` reads all."""
    names = {name for store in reports.stores(clients) for name in store.report_names(manifest.id)}
    found = sorted((match for name in names if (match := _NAME.fullmatch(name))), key=lambda match: match["at"])
    own = [match for match in found if match["machine"] == machine]
    name = (own or found)[-1][0] if found else BENCHMARK
    return reports.read(clients, manifest, name, _parse)


def read_benchmark(clients: Clients, manifest: Manifest) -> Benchmark | None:
    """The result that stands for a snapshot, or None. See the module's description."""
    return standing(benchmark_history(clients, manifest), planned_context(clients, manifest))


def standing(history: Sequence[Benchmark], context_tokens: int) -> Benchmark | None:
    """The result that stands, of some results from the oldest to the newest, where that context is planned."""
    return max(enumerate(history), key=lambda one: (*_rank(one[1], context_tokens), one[0]), default=(0, None))[1]


def stands_before(clients: Clients, manifest: Manifest, measured: Benchmark, other: Benchmark) -> bool:
    """Whether a result, which is the newer one, stands in place of another one of the snapshot."""
    context_tokens = planned_context(clients, manifest)
    return _rank(measured, context_tokens) >= _rank(other, context_tokens)


def planned_context(clients: Clients, manifest: Manifest) -> int:
    """The tokens of context that the snapshot was validated for; those of the profile for chat before that."""
    validation = read_validation(clients, manifest)
    return validation.context_tokens if validation else PROFILES["chat"].context_tokens


def _parse(value: dict[str, Any]) -> Benchmark:
    """Raises TypeError, and what `Benchmark.from_json` raises, for a document that is no result."""
    result = Benchmark.from_json(value)
    if not all(length.tok_per_s is None or _is_figure(length.tok_per_s) for length in result.results):
        raise TypeError("a speed that is no number")
    if not (_is_figure(result.time_to_first_token_s) and _is_figure(result.load_s)):
        raise TypeError("a time that is no number")
    if not 0 <= _context(result) <= _MAX_CONTEXT_TOKENS:
        raise ValueError("a context that no model has")
    report_name(result), result.line, result.rows()
    return result


def _is_figure(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 <= value <= _MAX_FIGURE  # false for NaN


def _rank(result: Benchmark, context_tokens: int) -> tuple[int, bool]:
    return -abs(_context(result) - context_tokens), result.reliable


def _context(result: Benchmark) -> int:
    return int(result.parameters.get("n_ctx") or 0)


def report_name(result: Benchmark) -> str:
    """The name of a result's own report. The load test and the roleplay, which may be added later, do not change it."""
    machine = result.machine.identity
    lengths = [length.to_json() for length in result.results]
    facts = json.dumps([machine, result.engine, result.build, result.parameters, lengths, result.load_s])
    return "-".join(
        (
            "benchmark",
            _TIME_SIGNS.sub("", (result.measured_at or _UNDATED)[:19]) + "Z",
            machine,
            str(_context(result)),
            "reliable" if result.reliable else "disturbed",
            f"{sha256(facts.encode()).hexdigest()[:8]}.json",
        )
    )


def _prune(store: Store, manifest: Manifest) -> None:
    """Remove the results beyond the bounds. Other processes may do the same."""
    for name in surplus(store.report_names(manifest.id)):
        store.remove_report(manifest.id, name)


def surplus(names: Sequence[str]) -> set[str]:
    """The names of the reports on single results that are beyond the bounds, of the names of all reports."""
    found = [match for name in names if (match := _NAME.fullmatch(name))]
    found.sort(key=lambda match: match["at"], reverse=True)
    kinds: Counter[tuple[str, ...]] = Counter()
    kept: list[re.Match[str]] = []
    for match in found:
        kind = match.group("machine", "context", "reliable")
        kinds[kind] += 1
        if kinds[kind] <= KEPT_OF_A_KIND:
            kept.append(match)
    kept.sort(key=lambda match: match["reliable"] != "reliable")  # stable: the newest of each come first
    return {match[0] for match in found} - {match[0] for match in kept[:KEPT]}
