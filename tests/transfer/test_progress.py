"""Done bytes, rate and time left count the same bytes, and the time left is about right."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.local.hub import HubService
from paddock.transfer.fetch import fetch
from paddock.transfer.meter import Meter
from paddock.transfer.options import Options
from paddock.transfer.progress import Progress, TotalProgress, VerificationSpeed
from tests.support.clock import FakeClock
from tests.transfer.remote import KIB, MIB, content, on_hub

REPORT_S = 0.25


@dataclass
class SimulatedTransfer:
    """A file that is received at a constant rate over equally fast connections, and reported as a transfer reports it.

    Each connection reads `read_bytes` at once. Nothing is received in the first `latency_s`.
    """

    clock: FakeClock
    size: int
    rate_bytes_per_s: float
    label: str = "a"
    resumed_bytes: int = 0
    latency_s: float = 0.0
    connections: int = 1
    read_bytes: int = 16 * KIB
    meter: Meter = field(init=False)
    began_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.meter = Meter(clock=self.clock)
        self.began_s = self.clock.now_s

    @property
    def missing_bytes(self) -> int:
        return self.size - self.resumed_bytes - self.meter.useful_bytes

    def reports(self, *, until_s: float = float("inf")) -> Iterator[Progress]:
        """A report every quarter of a second, and the last one when the file is verified."""
        yield self.report()
        step_s = min(0.01, self.read_bytes * self.connections / self.rate_bytes_per_s)
        reported_s = self.clock.now_s
        while self.missing_bytes and self.clock.now_s < self.began_s + until_s:
            self.clock.now_s += step_s
            flowing_s = self.clock.now_s - self.began_s - self.latency_s
            read = max(0, int(flowing_s * self.rate_bytes_per_s) // (self.read_bytes * self.connections))
            received = read * self.read_bytes * self.connections - self.meter.useful_bytes
            received = max(0, min(self.missing_bytes, received))
            self.meter.count(received, received)
            if self.clock.now_s >= reported_s + REPORT_S:
                reported_s = self.clock.now_s
                yield self.report()
        if not self.missing_bytes:
            yield self.report(verified=True)

    def report(self, *, verified: bool = False) -> Progress:
        written = self.resumed_bytes + self.meter.useful_bytes
        done = self.size if verified else min(written, self.size - 1)
        transferred = self.meter.transferred_bytes
        rate = self.meter.rate_bytes_per_s()
        return Progress(self.label, done, self.size, transferred, self.resumed_bytes, rate)


def assert_right(left_s: float | None, missing_s: float, *, factor: float = 2.0) -> None:
    assert left_s is not None
    assert missing_s / factor - 0.5 <= left_s <= missing_s * factor + 0.5


@settings(deadline=None, max_examples=50)
@given(
    rate=st.floats(50e3, 2e9),
    seconds=st.floats(2.0, 20.0),
    latency_s=st.floats(0.0, 3.0),
    connections=st.sampled_from([1, 4, 16]),
    resumed=st.floats(0.0, 50.0),
)
def test_at_a_constant_rate_the_time_left_is_right_from_a_second_on(
    rate: float, seconds: float, latency_s: float, connections: int, resumed: float
) -> None:
    clock = FakeClock()
    fetched_bytes = int(rate * seconds)
    read_bytes = max(1024, min(256 * KIB, int(rate / 20 / connections)))
    transfer = SimulatedTransfer(
        clock,
        int(fetched_bytes * (1 + resumed)),
        rate,
        resumed_bytes=int(fetched_bytes * (1 + resumed)) - fetched_bytes,
        latency_s=latency_s,
        connections=connections,
        read_bytes=read_bytes,
    )
    total = TotalProgress(transfer.size, clock=clock)
    before = transfer.report()
    for report in transfer.reports():
        total.update(report)
        assert before.done_bytes <= report.done_bytes == total.done_bytes
        assert report.fetched_bytes <= report.transferred_bytes
        assert report.is_verified or report.done_bytes < report.total_bytes
        if clock.now_s - transfer.began_s > latency_s + 1.5 and not report.is_verifying and not report.is_verified:
            missing_s = transfer.missing_bytes / rate
            assert_right(report.left_s, missing_s)
            assert_right(total.left_s, missing_s)
        before = report
    assert before.is_verified
    assert total.left_s == 0


def test_resumed_bytes_do_not_count_for_the_rate() -> None:
    clock = FakeClock()
    transfer = SimulatedTransfer(clock, 1000 * MIB, 10 * MIB, resumed_bytes=900 * MIB)
    total = TotalProgress(transfer.size, clock=clock)
    first, *rest = transfer.reports(until_s=2)
    total.update(first)
    assert (first.done_bytes, first.rate_bytes_per_s, first.left_s, total.left_s) == (900 * MIB, 0, None, None)
    for report in rest:
        total.update(report)
    assert_right(total.left_s, transfer.missing_bytes / (10 * MIB), factor=1.1)


def test_the_time_left_is_unknown_during_a_stall_and_known_again_after_it() -> None:
    clock = FakeClock()
    transfer = SimulatedTransfer(clock, 1000 * MIB, 10 * MIB)
    total = TotalProgress(transfer.size, clock=clock)
    for report in transfer.reports(until_s=20):
        total.update(report)
    assert total.left_s is not None
    for _ in range(44):
        clock.now_s += REPORT_S
        total.update(transfer.report())
    assert transfer.report().left_s is None
    assert total.left_s is None
    assert total.rate_bytes_per_s == 0
    transfer.began_s += 11
    for report in transfer.reports(until_s=26):
        total.update(report)
    assert_right(total.left_s, transfer.missing_bytes / (10 * MIB))


def files(clock: FakeClock, sizes: list[int], *, rate: float, latency_s: float) -> Iterator[Progress]:
    for number, size in enumerate(sizes):
        yield from SimulatedTransfer(clock, size, rate, label=f"file {number}", latency_s=latency_s).reports()


def test_waiting_for_the_responses_of_small_files_does_not_count_for_the_rate() -> None:
    """Ten small files take half a second each, which says nothing about the time for the large one."""
    clock = FakeClock()
    sizes = [600] * 10 + [200 * MIB]
    total = TotalProgress(sum(sizes), clock=clock)
    times_left = []
    for report in files(clock, sizes, rate=10 * MIB, latency_s=0.5):
        total.update(report)
        times_left.append(total.left_s)
        if total.left_s is not None:
            assert_right(total.left_s, (total.total_bytes - total.done_bytes) / (10 * MIB))
    assert times_left[:10] == [None] * 10
    assert times_left[-1] == 0
    assert sum(left_s is not None for left_s in times_left) > 70


def test_small_files_after_a_large_one_are_not_taken_for_a_slow_connection() -> None:
    clock = FakeClock()
    sizes = [200 * MIB, *[65 * KIB] * 10]
    total = TotalProgress(sum(sizes), clock=clock)
    for report in files(clock, sizes, rate=10 * MIB, latency_s=0.5):
        total.update(report)
        if report.label != "file 0":
            assert total.left_s is None or total.left_s < 10


def test_many_files_that_are_too_short_for_a_rate_have_a_time_left_together() -> None:
    clock = FakeClock()
    sizes = [3 * MIB] * 40
    total = TotalProgress(sum(sizes), clock=clock)
    began_s = clock.now_s
    took_s = 40 * (0.1 + 0.3)
    for report in files(clock, sizes, rate=10 * MIB, latency_s=0.1):
        total.update(report)
        elapsed_s = clock.now_s - began_s
        if elapsed_s > 2 and total.left_s:
            assert_right(total.left_s, took_s - elapsed_s)
    assert total.left_s == 0


def test_rates_of_parallel_files_add_up() -> None:
    clock = FakeClock()
    transfers = [SimulatedTransfer(clock, 100 * MIB, 5 * MIB, label=str(number)) for number in range(2)]
    total = TotalProgress(200 * MIB, clock=clock)
    for _ in range(12):
        clock.now_s += REPORT_S
        for transfer in transfers:
            received = int(transfer.rate_bytes_per_s * REPORT_S)
            transfer.meter.count(received, received)
            total.update(transfer.report())
    assert_right(total.left_s, (total.total_bytes - total.done_bytes) / (10 * MIB))


def test_verification_adds_its_own_time() -> None:
    verification = VerificationSpeed()
    verification.count(100 * MIB, 0.1)
    verifying = Progress("a", 1000 * MIB - 1, 1000 * MIB, 1000 * MIB, 0, 5.0, verify_s=verification.left_s(500 * MIB))
    assert verifying.is_verifying
    assert verifying.left_s == 0.5
    total = TotalProgress(2000 * MIB)
    total.update(verifying)
    assert total.left_s == pytest.approx(1000 * MIB / 5 + 0.5)
    verified = Progress("a", 1000 * MIB, 1000 * MIB, 1000 * MIB, 0, 5.0)
    assert (verified.is_verified, verified.left_s) == (True, 0)


def test_the_time_left_of_a_repair_is_unknown() -> None:
    assert Progress("a", 99, 100, 100, 0, 5.0, verify_s=None).left_s is None


def test_done_bytes_include_those_behind_a_gap(hub: HubService, tmp_path: Path) -> None:
    """With the default settings, sixteen connections fill spans of 4 MiB side by side."""
    data = content(40 * MIB)
    reports: list[Progress] = []
    options = Options(limit_rate_bytes_per_s=20 * MIB)
    fetch(on_hub(hub, data), staging=tmp_path, options=options, on_progress=reports.append)
    # Another thread may count a read between the two numbers of a report.
    behind = [report.transferred_bytes - report.done_bytes for report in reports]
    print(f"done bytes are at most {max(behind)} behind the received ones")
    assert max(behind) <= 2 * options.connections * 256 * KIB
    for before, after in itertools.pairwise(reports):
        assert before.done_bytes <= after.done_bytes <= after.transferred_bytes
    assert [report.is_verified for report in reports] == [False] * (len(reports) - 1) + [True]


def test_a_resumed_file_starts_with_the_resumed_bytes(hub: HubService, tmp_path: Path) -> None:
    data = content(8 * MIB)
    source = on_hub(hub, data)

    def stop(progress: Progress) -> None:
        if progress.done_bytes > 4 * MIB:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(source, staging=tmp_path, options=Options(limit_rate_bytes_per_s=8 * MIB), on_progress=stop)
    reports: list[Progress] = []
    staged = fetch(source, staging=tmp_path, on_progress=reports.append)
    assert staged is not None
    assert all(report.done_bytes >= report.resumed_bytes == staged.resumed_bytes > 3 * MIB for report in reports)
    assert reports[-1].fetched_bytes == staged.transferred_bytes
