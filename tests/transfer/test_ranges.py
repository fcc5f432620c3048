"""Random access to a remote file transfers little more than what is read."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.local.hub import HubService
from paddock.errors import TransferInterrupted, TransferRefused
from paddock.transfer.ranges import RangeReader
from tests.transfer.remote import KIB, MIB, content, on_hub

DATA = content(40 * MIB)
FILE = "org/name/model.gguf"


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(reads=st.lists(st.tuples(st.integers(0, 300 * KIB), st.integers(0, 300 * KIB)), max_size=8))
def test_every_read_equals_a_slice(hub: HubService, reads: list[tuple[int, int]]) -> None:
    data = DATA[: 256 * KIB + 1]
    with RangeReader(on_hub(hub, data), block_bytes=64 * KIB) as reader:
        assert reader.size == len(data)
        for offset, length in reads:
            assert reader.read_at(offset, length) == data[offset : offset + length]
        assert reader.bytes_read <= len(data)


def test_the_head_is_fetched_once(hub: HubService) -> None:
    with RangeReader(on_hub(hub, DATA), block_bytes=64 * KIB) as reader:
        for offset in range(0, MIB, 1000):
            assert reader.read_at(offset, 1000) == DATA[offset : offset + 1000]
        assert reader.bytes_read <= MIB + 64 * KIB
        assert sum(count for request, count in hub.stats().requests.items() if "/resolve/" not in request) == 17


def test_a_read_far_behind_the_head_fetches_one_block(hub: HubService) -> None:
    with RangeReader(on_hub(hub, DATA), block_bytes=64 * KIB) as reader:
        reader.read_at(0, 8)
        far = 39 * MIB
        assert reader.read_at(far, 100) == DATA[far : far + 100]
        assert reader.read_at(far + 100, 100) == DATA[far + 100 : far + 200]
        assert reader.read_at(len(DATA) - 5, 100) == DATA[-5:]
        assert reader.bytes_read == 2 * 64 * KIB + 5


def test_a_read_resumes_after_a_fault(hub: HubService) -> None:
    source = on_hub(hub, DATA)
    hub.inject("reset", FILE, after_bytes=500_000)
    with RangeReader(source) as reader:
        assert reader.read_at(0, MIB) == DATA[:MIB]
        assert reader.bytes_read == MIB


def test_a_server_without_ranges_is_read_only_as_far_as_needed(hub: HubService) -> None:
    source = on_hub(hub, DATA)
    hub.inject("full", FILE, times=None)
    with RangeReader(source) as reader:
        assert reader.read_at(100, 1000) == DATA[100:1100]
        assert reader.bytes_read == 64 * KIB


def test_a_refusal_is_final(hub: HubService) -> None:
    source = on_hub(hub, DATA)
    hub.inject("status", FILE, status=403, times=None)
    with RangeReader(source) as reader, pytest.raises(TransferRefused, match="status 403"):
        reader.read_at(0, 10)


def test_a_negative_offset_is_an_error(hub: HubService) -> None:
    with RangeReader(on_hub(hub, DATA[:10])) as reader, pytest.raises(ValueError, match="is not a range"):
        reader.read_at(-1, 5)


@pytest.mark.parametrize(
    ("fault", "options"), [("stall", {}), ("status", {"status": 503, "headers": {"Retry-After": "50"}})]
)
def test_a_reader_that_is_closed_ends_a_read_of_another_thread(
    hub: HubService, fault: Any, options: dict[str, Any]
) -> None:
    reader = RangeReader(on_hub(hub, DATA), stall_s=50)
    hub.inject(fault, FILE, times=None, **options)
    hub.reset_stats()
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(reader.read_at, 0, 8)
        hub.wait_until(lambda stats: any("/resolve/" not in path for path in stats.requests))
        time.sleep(0.3)  # it waits for the body, or for the next try
        began = time.monotonic()
        reader.close()
        with pytest.raises(TransferInterrupted, match="was cancelled"):
            reading.result(timeout=60)
    assert time.monotonic() - began < 2
