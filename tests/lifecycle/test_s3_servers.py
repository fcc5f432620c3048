"""Models are pulled, cached and restored with S3 servers that lack a feature, by one worker and by four at once."""

from __future__ import annotations

import itertools
import logging
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from infra.local.hub import HubService
from infra.local.s3 import S3Server
from paddock.errors import TransferRefused
from paddock.lifecycle.acquire.cache import cache
from paddock.lifecycle.acquire.fetch import fetch_file
from paddock.lifecycle.acquire.plan import plan
from paddock.lifecycle.acquire.pull import Pulled, pull
from paddock.lifecycle.acquire.restore import restore
from paddock.lifecycle.clients import Clients, connect
from paddock.lifecycle.steps import PlainRunner
from paddock.model.acquired import Acquired
from paddock.model.names import ModelName
from paddock.model.reference import Reference
from paddock.planning.file_selection import select_files
from paddock.planning.targets import UNBOUNDED
from tests.support.foreign_s3 import PROGRAMS, ForeignS3, start_installed
from tests.support.limited_s3 import Lack, LimitedS3, limited_s3
from tests.support.segmented_model import SEGMENT_BYTES, segmented_model
from tests.support.stores import A, publish
from tests.support.tiny_hub import use_hub

NAME = "org/larger-GGUF"
WANTED = Reference(ModelName.parse(NAME))
FILE = "larger-F32.gguf"
WORKERS = 4
LACKS: list[tuple[Lack, ...]] = [
    (),
    ("etag",),
    ("length",),
    ("last-modified",),
    ("status-206",),
    ("ranges",),
    ("presigned",),
    ("bytes",),
    ("conditions",),
    ("if-match",),
    ("accepting-conditions",),
    ("checksums",),
    ("leases-404",),
    ("leases-412",),
    ("deletion",),
]
WITHOUT_LEASES = {"presigned", "bytes", "conditions", "accepting-conditions", "leases-404", "leases-412"}
HEADER_BYTES = 1024 * 1024
"""Bytes that a preflight reads of the file."""
EVERY_PAIR = [(first[0], second[0]) for first, second in itertools.combinations(LACKS[1:], 2)]

Server = LimitedS3 | ForeignS3 | S3Server
Worker = Callable[[], Clients]


@pytest.fixture
def content(hub: HubService) -> bytes:
    content = segmented_model(layers=1)
    hub.repository(NAME).commit({FILE: content})
    return content


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch, hub: HubService, tmp_path: Path, content: bytes) -> Worker:
    """Make the clients of a worker with an empty volume of its own."""
    use_hub(monkeypatch, hub, tmp_path)
    monkeypatch.setenv("PADDOCK_SEGMENT_BYTES", str(SEGMENT_BYTES))
    monkeypatch.setenv("PADDOCK_LEASE_S", "2")
    numbers = itertools.count()

    def worker() -> Clients:
        monkeypatch.setenv("PADDOCK_VOLUME", str(tmp_path / f"volume-{next(numbers)}"))
        return connect()

    return worker


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[Server], None]:
    """Set the environment to an empty prefix on a server."""

    def use(server: Server) -> None:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("PADDOCK_S3_URI", f"s3://{server.bucket}/{secrets.token_hex(4)}")

    return use


@pytest.fixture
def limited(use: Callable[[Server], None]) -> Iterator[Callable[..., LimitedS3]]:
    """Start a server that lacks features, and set the environment to it."""
    with ExitStack() as stack:

        def limited(*lacks: Lack) -> LimitedS3:
            server = stack.enter_context(limited_s3(*lacks))
            use(server)
            return server

        yield limited


def pull_it(clients: Clients) -> Pulled:
    return pull(clients, WANTED, target=UNBOUNDED)


def pull_on_four_volumes(worker: Worker, content: bytes) -> None:
    """Pull with four workers at once, and check each volume."""
    homes = [worker() for _ in range(WORKERS)]
    with ThreadPoolExecutor(WORKERS) as pool:
        pulled = list(pool.map(pull_it, homes))
    assert [(one.path / FILE).read_bytes() == content for one in pulled] == [True] * WORKERS


def hub_copies(hub: HubService, content: bytes) -> float:
    """The number of copies of the file that the Hub sent, with what each preflight read of it."""
    return hub.stats().bytes_sent[f"{NAME}/{FILE}"] / len(content)


def cache_and_restore(worker: Worker, content: bytes) -> None:
    """Pull on one volume, cache, and restore on another one."""
    first, second = worker(), worker()
    manifest = pull_it(first).manifest
    cache(PlainRunner(first), WANTED)
    restored = restore(PlainRunner(second), WANTED)
    assert restored.manifest == manifest
    assert (restored.path / FILE).read_bytes() == content
    assert {item.origin for item in restored.acquired} == {"s3"}


def fetch_it(clients: Clients) -> Acquired:
    """The model's one file, without what a pull does beside."""
    clients.volume.prepare()
    listing = clients.hub.listing(WANTED.model)
    (row,) = plan(clients, listing, select_files(listing)).files
    return fetch_file(clients, listing, row)


@pytest.mark.parametrize("lack", ["presigned", pytest.param("bytes", marks=pytest.mark.torture)])
def test_an_s3_that_never_sends_bytes_is_named_and_the_hub_is_asked(
    worker: Worker,
    limited: Callable[..., LimitedS3],
    content: bytes,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    lack: Lack,
) -> None:
    server = limited(lack)
    words = f"{server.endpoint.removeprefix('http://')} has the file, and does not send ranges of it"
    clients = worker()
    assert clients.remote is not None
    publish(clients.remote, A, {FILE: content}, tmp_path, model=WANTED.model)
    with caplog.at_level(logging.WARNING, logger="paddock"):
        assert fetch_it(clients).origin == "hub"
    assert words in caplog.text
    with pytest.raises(TransferRefused, match=words) as caught:
        restore(PlainRunner(worker()), Reference(WANTED.model, ref=A))
    assert "paddock pull" in caught.value.cure


@pytest.mark.parametrize("lack", ["leases-404", "leases-412"])
def test_what_was_fetched_without_a_lease_is_sent_to_s3_for_the_next_worker(
    worker: Worker, limited: Callable[..., LimitedS3], caplog: pytest.LogCaptureFixture, lack: Lack
) -> None:
    server = limited(lack)
    with caplog.at_level(logging.WARNING, logger="paddock"):
        assert fetch_it(worker()).origin == "hub"
    assert "is fetched from the Hub without a download lease" in caplog.text
    assert sum("leases" in key for _, key in server.requests) < 20
    assert fetch_it(worker()).origin == "s3"


@pytest.mark.parametrize("lacks", [("conditions",), ("accepting-conditions",)], ids="-".join)
def test_four_workers_without_conditions_all_fetch_the_file(
    worker: Worker, limited: Callable[..., LimitedS3], hub: HubService, content: bytes, lacks: tuple[Lack, ...]
) -> None:
    limited(*lacks)
    homes = [worker() for _ in range(WORKERS)]
    with ThreadPoolExecutor(WORKERS) as pool:
        origins = [acquired.origin for acquired in pool.map(fetch_it, homes)]
    assert origins.count("hub") == hub_copies(hub, content) >= 1


@pytest.mark.torture
@pytest.mark.parametrize("lacks", [*LACKS, *EVERY_PAIR], ids=lambda lacks: "-".join(lacks) or "nothing")
def test_four_volumes_on_an_s3_that_lacks_features_all_have_the_model(
    worker: Worker, limited: Callable[..., LimitedS3], hub: HubService, content: bytes, lacks: tuple[Lack, ...]
) -> None:
    limited(*lacks)
    pull_on_four_volumes(worker, content)
    copies = hub_copies(hub, content)
    print(f"the Hub sent {copies:.2f} copies")
    assert copies <= (WORKERS if WITHOUT_LEASES & set(lacks) else 1) + WORKERS * HEADER_BYTES / len(content)


@pytest.mark.torture
@pytest.mark.parametrize("kind", ["moto", "s3"])
def test_four_volumes_on_a_real_server_take_one_copy_from_the_hub(
    worker: Worker,
    use: Callable[[Server], None],
    hub: HubService,
    content: bytes,
    request: pytest.FixtureRequest,
    kind: str,
) -> None:
    use(request.getfixturevalue(kind))
    pull_on_four_volumes(worker, content)
    assert hub_copies(hub, content) <= 1 + WORKERS * HEADER_BYTES / len(content)


@pytest.mark.torture
@pytest.mark.parametrize(
    "lacks",
    [lacks for lacks in [*LACKS, *EVERY_PAIR] if not {"presigned", "bytes"} & set(lacks)],
    ids=lambda lacks: "-".join(lacks) or "nothing",
)
def test_a_snapshot_is_cached_and_restored_on_an_s3_that_lacks_features(
    worker: Worker, limited: Callable[..., LimitedS3], content: bytes, lacks: tuple[Lack, ...]
) -> None:
    limited(*lacks)
    cache_and_restore(worker, content)


def test_a_snapshot_is_cached_and_restored_on_moto(
    worker: Worker, use: Callable[[Server], None], moto: ForeignS3, content: bytes
) -> None:
    use(moto)
    cache_and_restore(worker, content)


@pytest.mark.torture
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_model_is_shared_on_a_server_of_another_project(
    worker: Worker,
    use: Callable[[Server], None],
    hub: HubService,
    content: bytes,
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
) -> None:
    with start_installed(name, tmp_path_factory.mktemp(name)) as server:
        use(server)
        pull_on_four_volumes(worker, content)
        print(f"the Hub sent {hub_copies(hub, content):.2f} copies")
        if presigned_addresses_work(worker()):
            cache_and_restore(worker, content)


def presigned_addresses_work(clients: Clients) -> bool:
    assert clients.remote is not None
    return {row.name: row.ok for row in clients.remote.features().rows}["presigned addresses"]
