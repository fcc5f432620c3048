"""Run the phases of an onboarding in the current flow run: each step is a task of it, and its log tells each result.

Models are measured and compared on a worker of the GPU work pool, where one is online. The phases are no subflows:
Prefect waits up to a second at the end of each one, for the thread that sends its heartbeat.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from flows.benchmark import benchmark_on_gpu_worker
from flows.compare import compare_on_gpu_worker
from paddock.lifecycle.acquire.publish import Published
from paddock.lifecycle.assess.validate import Validation
from paddock.lifecycle.onboard import InProcess, OnboardRequest, Phases
from paddock.lifecycle.promote.gating import compare_with_promoted
from paddock.lifecycle.promote.promote import promote
from paddock.measure.benchmark_report import Benchmark
from paddock.measure.gate_report import GateReport
from paddock.model.artifact import Manifest, RecordedFinding
from paddock.model.finding import Finding, Severity
from paddock.model.units import counted, human_bytes, human_time
from paddock.store.copying import CopyResult
from tasks.run_log import run_logger
from tasks.runner import PrefectRunner

R = TypeVar("R")


class FlowPhases(Phases):
    """Runs the phases with a flow's runner. The artifacts of a copy, a benchmark and a promotion are about this
    machine, whatever the target of the runner is."""

    def __init__(self, runner: PrefectRunner) -> None:
        self._runner = runner
        self._here = PrefectRunner(clients=runner.clients)
        self._for_target = InProcess(runner)

    def acquire(self, request: OnboardRequest) -> Published:
        return _tell(lambda: self._for_target.acquire(request), _acquired)

    def validate(self, manifest: Manifest, request: OnboardRequest) -> Validation:
        return _tell(lambda: self._for_target.validate(manifest, request), _validated)

    def cache(self, manifest: Manifest) -> CopyResult | None:
        return _tell(lambda: InProcess(self._here).cache(manifest), _cached)

    def benchmark(self, manifest: Manifest, request: OnboardRequest) -> Benchmark | None:
        return _tell(lambda: benchmark_on_gpu_worker(self._here, manifest, request), _benchmarked)

    def compare(self, manifest: Manifest, request: OnboardRequest) -> GateReport | None:
        comparer = partial(compare_on_gpu_worker, target=request.target)
        return _tell(lambda: compare_with_promoted(self._runner, manifest, comparer, request), _compared)

    def promote(self, manifest: Manifest, request: OnboardRequest) -> str:
        def promote_here() -> str:
            result = promote(
                self._here,
                manifest.id.reference,
                reason=request.reason,
                default=request.scope.default,
                instead_of=request.scope.instead_of,
                comparer=compare_on_gpu_worker,
                announce=run_logger().info,
            )
            return result.dossier

        return _tell(promote_here, lambda _: f"promoted {manifest.id.short}")

    def write_dossier(self, manifest: Manifest) -> str:
        return self._for_target.write_dossier(manifest)


def _tell(phase: Callable[[], R], line: Callable[[R], str]) -> R:
    """Run a phase, and log its result with the time that it took."""
    began = time.monotonic()
    result = phase()
    seconds = time.monotonic() - began
    run_logger().info("%s, in %s", line(result), f"{seconds:.1f} s" if seconds < 60 else human_time(seconds))
    return result


def _acquired(published: Published) -> str:
    manifest, fetched = published.manifest, published.transferred_bytes
    size = human_bytes(manifest.size_bytes)
    how = f"{human_bytes(fetched)} of {size} fetched" if fetched else f"all {size} were there already"
    return f"acquired {manifest.id.short}: {how}, {_warnings(manifest.findings)}"


def _validated(validation: Validation) -> str:
    memory = human_bytes(validation.memory.total_bytes)
    context = f"{validation.context_tokens} tokens of context"
    return f"validated: passed, {_warnings(validation.findings)}, {memory} of memory with {context}"


def _warnings(findings: Sequence[Finding | RecordedFinding]) -> str:
    count = sum(finding.severity is Severity.WARN for finding in findings)
    return counted(count, "warning") if count else "no warnings"


def _cached(copied: CopyResult | None) -> str:
    return f"cached in {copied.line}" if copied else "not cached, since PADDOCK_S3_URI is not set"


def _benchmarked(measured: Benchmark | None) -> str:
    return f"benchmarked: {measured.speeds}" if measured else "not benchmarked"


def _compared(report: GateReport | None) -> str:
    return f"gates: {report.line}" if report else "gates: nothing to compare, since it replaces no other files"
