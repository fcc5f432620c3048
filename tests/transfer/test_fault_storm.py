"""Random faults of every kind end in the right bytes, or in an error with a message and a cure."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from infra.local.hub import HubService
from paddock.errors import PaddockError
from paddock.transfer.fetch import Staged, fetch
from paddock.transfer.options import Options
from tests.support.fault_totals import Faults
from tests.transfer.remote import KIB, MIB, Remote, content, on_hub, sha256_of

FILE = "org/name/model.gguf"
SIZE = 2 * MIB + 12345


def _after(draw: random.Random) -> dict[str, Any]:
    return {"after_bytes": draw.randrange(1, MIB)}


def _none(_: random.Random) -> dict[str, Any]:
    return {}


# each kind of fault, and how its parameters are drawn
STORM: dict[str, Any] = {
    "cut": ("short", _after),
    "reset": ("reset", _after),
    "stall": ("stall", _after),
    "trickle": ("slow", lambda draw: {"bytes_per_s": draw.choice((1, 50, 900))}),
    "200 for 206": ("full", _none),
    "another range": ("shift", lambda draw: {"offset": draw.choice((-7, -1, 1, 7, 4096))}),
    "less than the range": ("shorten", _after),
    "no length": ("unsized", _none),
    "gzip": ("gzip", _none),
    "another ETag": ("etag", _none),
    "a page": ("html", _none),
    "an endless body": ("endless", _none),
    "a flipped bit": ("flip", lambda draw: {"offset": draw.randrange(SIZE), "bit": draw.randrange(8)}),
    "an expired address": ("expire", _none),
    **{
        f"status {status}": ("status", lambda _, status=status: {"status": status})
        for status in (400, 401, 403, 404, 408, 410, 416, 500, 502, 504)
    },
    "429 with a pause": ("status", lambda _: {"status": 429, "headers": {"Retry-After": "0"}}),
    "503 with a pause": ("status", lambda _: {"status": 503, "headers": {"Retry-After": "1"}}),
    "503 with a long pause": ("status", lambda _: {"status": 503, "headers": {"Retry-After": "86400"}}),
}


def test_there_are_at_least_25_kinds_of_faults() -> None:
    assert len(STORM) >= 25


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", STORM)
@pytest.mark.parametrize("times", [1, pytest.param(20, marks=pytest.mark.torture)])
def test_random_faults_end_in_the_right_bytes_or_a_clean_error(
    hub: HubService, tmp_path: Path, faults: Faults, kind: str, times: int
) -> None:
    faults.add(times)
    fault, numbers = STORM[kind]
    errors = 0
    for number in range(times):
        draw = random.Random(f"{kind} {number}")
        data = content(SIZE, seed=number)
        source = on_hub(hub, data)
        options = Options(
            connections=draw.choice((1, 2, 4, 8)), segment_bytes=draw.choice((256 * KIB, MIB)), stall_s=0.4
        )
        hub.inject(fault, FILE, times=draw.choice((1, 2, 3, 9, None)), **numbers(draw))
        staged = attempt(source, tmp_path / str(number), options)
        hub.clear_faults()
        if isinstance(staged, PaddockError):
            errors += 1
            assert source.label in staged.message or str(tmp_path) in staged.message
            assert staged.cure
            assert "://" not in str(staged)
            staged = fetch(
                source, staging=tmp_path / str(number), options=options
            )  # the failed transfer left nothing that prevents another
        assert staged is not None
        assert staged.path.read_bytes() == data
        assert staged.sha256 == sha256_of(data)
    print(f"{kind}: {times} injected, {times - errors} overcome, {errors} reported; all bytes right in the end")


def attempt(source: Remote, staging: Path, options: Options) -> Staged | PaddockError | None:
    try:
        return fetch(source, staging=staging, options=options)
    except PaddockError as error:
        return error
