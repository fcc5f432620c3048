"""S3 that is silent, slow, busy, full or closed to us: an error that says so within bounded time, or a retry; and the
volume goes on serving what it has."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from infra.local.hub import HubService
from infra.local.s3 import S3Server
from paddock.errors import PaddockError, StoreRefused, StoreUnavailable, TransferInterrupted, TransferRefused
from paddock.lifecycle.acquire.pull import pull
from paddock.lifecycle.acquire.restore import restore
from paddock.lifecycle.clients import Clients, connect
from paddock.lifecycle.promote import promote
from paddock.lifecycle.steps import PlainRunner
from paddock.model.artifact import Manifest
from paddock.model.names import ModelName, Sha256
from paddock.model.reference import Reference
from paddock.store.copying import push
from tests.support.fault_totals import Faults
from tests.support.s3_proxy import S3Fault, S3Proxy, proxied
from tests.support.segmented_model import segmented_model
from tests.support.tiny_hub import MODEL, NAME, fill_repository, tiny_model, use_hub, use_s3

Step = Callable[[Clients, Manifest], None]

BOUND_S = 30.0
LARGER = ModelName.parse("org/larger-GGUF")


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch, hub: HubService, s3: S3Server, tmp_path: Path) -> Iterator[S3Proxy]:
    """The environment leads to a Hub, an empty volume, and to S3 by way of the proxy."""
    use_hub(monkeypatch, hub, tmp_path)
    use_s3(monkeypatch, s3, f"faults-{secrets.token_hex(4)}")
    monkeypatch.setenv("PADDOCK_STALL_S", "2")
    monkeypatch.setenv("PADDOCK_LEASE_S", "2")
    fill_repository(hub)
    with proxied(s3.endpoint) as made:
        monkeypatch.setenv("AWS_ENDPOINT_URL", made.endpoint)
        yield made


@pytest.fixture
def served(proxy: S3Proxy, hub: HubService) -> tuple[Manifest, Manifest]:
    """Two revisions on the volume and in S3; the second one is promoted in both."""
    clients = connect()
    assert clients.remote is not None
    both = []
    for layers in (1, 2):
        hub.repository(NAME).commit({"tiny-Q8_0.gguf": tiny_model(layers)})
        both.append(pull(clients, Reference(MODEL)).manifest)
        push(clients.volume, clients.remote, both[-1])
        promote.promote_snapshot(clients, both[-1].id, reason="a test")
    return both[0], both[1]


def weights(manifest: Manifest) -> Sha256:
    return next(file.sha256 for file in manifest.files if file.path.endswith(".gguf"))


def before_push(clients: Clients, first: Manifest) -> None:
    assert clients.remote is not None
    clients.remote.drop_blob(weights(first))


def push_it(clients: Clients, first: Manifest) -> None:
    assert clients.remote is not None
    push(clients.volume, clients.remote, first)


def promote_it(clients: Clients, first: Manifest) -> None:
    promote.promote_snapshot(clients, first.id, reason="a test")


def before_restore(clients: Clients, first: Manifest) -> None:
    clients.volume.remove(MODEL, revision=first.revision)
    clients.volume.collect(older_than_s=0)


def restore_it(clients: Clients, first: Manifest) -> None:
    restore(PlainRunner(clients), Reference(MODEL, ref=first.revision), promote=False)


PUSH = (before_push, push_it)
PROMOTE = (lambda clients, first: None, promote_it)
RESTORE = (before_restore, restore_it)
DENIED = S3Fault("status", status=403, code="AccessDenied")
FULL = S3Fault("status", ("PUT",), status=507, code="XMinioStorageFull")
FULL_OF_WORDS = S3Fault("status", ("PUT",), status=403, code="QuotaExceeded")
BUSY = S3Fault("status")
BROKEN = S3Fault("status", status=500, code="InternalError")
IN_BLOBS = (("GET",), "/blobs/")
NO_BLOBS = replace(DENIED, methods=("GET",), part="/blobs/")

SAMPLE = [
    ("a push to one that is full", PUSH, FULL, StoreRefused, "there is no space left"),
    ("a promotion that is denied", PROMOTE, DENIED, StoreRefused, "lack the permission"),
    ("a restore from one that is silent", RESTORE, S3Fault("silent"), StoreUnavailable, "does not answer"),
]
FULL_LIST = [
    ("a push over a quota", PUSH, FULL_OF_WORDS, StoreRefused, "there is no space left"),
    ("a restore of blobs that are denied", RESTORE, NO_BLOBS, TransferRefused, "refuses to send"),
    ("a push to one that is silent", PUSH, S3Fault("silent"), StoreUnavailable, "does not answer"),
    ("a push to one that is busy", PUSH, BUSY, StoreUnavailable, "answers 503"),
    ("a push to one that is broken", PUSH, BROKEN, StoreUnavailable, "answers 500"),
    ("a push that is denied", PUSH, DENIED, StoreRefused, "lack the permission"),
    ("a promotion on one that is silent", PROMOTE, S3Fault("silent"), StoreUnavailable, "does not answer"),
    ("a promotion on one that is busy", PROMOTE, BUSY, StoreUnavailable, "answers 503"),
    ("a restore from one that is busy", RESTORE, BUSY, StoreUnavailable, "answers 503"),
    ("a restore that is denied", RESTORE, DENIED, StoreRefused, "lack the permission"),
    (
        "a restore of blobs that trickle",
        RESTORE,
        S3Fault("slow", *IN_BLOBS, bytes_per_s=20),
        TransferInterrupted,
        "stall",
    ),
    ("a restore of blobs that never come", RESTORE, S3Fault("silent", *IN_BLOBS), TransferInterrupted, "was received"),
    (
        "a restore of blobs that are cut off",
        RESTORE,
        S3Fault("cut", *IN_BLOBS),
        TransferInterrupted,
        "without progress",
    ),
]


@pytest.mark.parametrize(
    ("steps", "fault", "error", "words"),
    [pytest.param(*row[1:], id=row[0]) for row in SAMPLE]
    + [pytest.param(*row[1:], id=row[0], marks=pytest.mark.torture) for row in FULL_LIST],
)
def test_a_fault_is_an_error_within_bounded_time_and_the_next_try_succeeds(
    proxy: S3Proxy,
    served: tuple[Manifest, Manifest],
    faults: Faults,
    steps: tuple[Step, Step],
    fault: S3Fault,
    error: type[PaddockError],
    words: str,
) -> None:
    faults.add()
    first, _ = served
    before, operation = steps
    before(connect(), first)
    proxy.faults = [replace(fault)]
    began = time.monotonic()
    with pytest.raises(error, match=words) as caught:
        operation(connect(), first)
    took = time.monotonic() - began
    print(f"{type(caught.value).__name__} after {took:.1f} s: {caught.value}")
    assert took < BOUND_S
    assert caught.value.cure
    volume = connect().volume
    shown = volume.promoted(MODEL).default_id
    assert (volume.model_path(MODEL) / "tiny-Q8_0.gguf").read_bytes() == tiny_model(1 if shown == first.id else 2)
    proxy.faults = []
    operation(connect(), first)
    connected = connect()
    assert connected.remote is not None
    assert connected.remote.snapshot(first.id) == connected.volume.snapshot(first.id) == first
    assert connected.remote.has_blob(weights(first), len(tiny_model(1)))


def test_a_request_that_fails_once_is_retried(proxy: S3Proxy, served: tuple[Manifest, Manifest]) -> None:
    first, _ = served
    before_restore(connect(), first)
    proxy.faults = [replace(BUSY, times=1), S3Fault("cut", *IN_BLOBS, times=2)]
    restore_it(connect(), first)
    assert connect().volume.snapshot(first.id) == first


def test_a_complete_volume_is_pulled_and_promoted_whatever_s3_does(
    proxy: S3Proxy, served: tuple[Manifest, Manifest], caplog: pytest.LogCaptureFixture
) -> None:
    first, second = served
    promote.promote_snapshot(connect(), first.id, reason="a test")
    proxy.faults = [DENIED]
    with caplog.at_level(logging.WARNING, logger="paddock"):
        pulled = pull(connect(), Reference(MODEL, ref=second.revision))
    assert pulled.transferred_bytes == 0
    assert connect().volume.promoted(MODEL).default_id == second.id
    assert "S3 is not updated yet" in caplog.text


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (replace(FULL, part="/blobs/"), "is not shared with the fleet"),
        (replace(DENIED, methods=("PUT",)), "without a download lease"),
    ],
    ids=["full", "read only"],
)
def test_an_s3_that_cannot_be_written_does_not_fail_the_worker(
    proxy: S3Proxy, hub: HubService, caplog: pytest.LogCaptureFixture, fault: S3Fault, words: str
) -> None:
    hub.repository(str(LARGER)).commit({"larger-F32.gguf": segmented_model()})
    proxy.faults = [fault]
    with caplog.at_level(logging.WARNING, logger="paddock"):
        pulled = pull(connect(), Reference(LARGER))
    assert words in caplog.text
    assert [one.origin for one in pulled.acquired] == ["hub"]
    assert (pulled.path / "larger-F32.gguf").read_bytes() == segmented_model()
