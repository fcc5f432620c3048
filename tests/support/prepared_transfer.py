"""A pull without its preflight and its audit, which take most of its time and write nothing.

Both are made once, before a process forks: then each of its children transfers, publishes and promotes in some 100 ms.
"""

from __future__ import annotations

import os
import pickle
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

from paddock import settings
from paddock.lifecycle.acquire.acquire import SERVED
from paddock.lifecycle.acquire.fetch import fetch_file
from paddock.lifecycle.acquire.plan import plan_files
from paddock.lifecycle.acquire.publish import publish
from paddock.lifecycle.acquire.resolve import resolve
from paddock.lifecycle.assess.audit import Audited, audit_acquired
from paddock.lifecycle.assess.preflight import Chosen, choose_fitting
from paddock.lifecycle.clients import Clients, connect
from paddock.lifecycle.promote.promote import promote_snapshot
from paddock.model.artifact import Listing
from paddock.planning.targets import UNBOUNDED
from paddock.store.volume import Volume
from tests.support import directory_store
from tests.support.stores import MODEL

SEGMENT_BYTES = 128 * 1024


@dataclass(frozen=True)
class Prepared:
    """What precedes the transfer of a variant, and what follows it."""

    listing: Listing
    chosen: Chosen
    audited: Audited


def clients_of(volume: Volume, *, remote: bool = True) -> Clients:
    """Clients of the volume, and of the remote store in the directory beside it."""
    directory_store.ROOTS["remote"] = volume.root.parent / "remote"
    configured = replace(settings.load(), volume=volume.root, s3_uri=None, segment_bytes=SEGMENT_BYTES, connections=2)
    clients = connect(configured)
    store = directory_store.open_store("directory://remote/models", clients.settings) if remote else None
    return replace(clients, remote=store)


def prepare(revision: str, quantization: str) -> Prepared:
    """Choose and audit a variant of MODEL on the Hub.

    In a process of its own, since a client's connections do not survive a fork. What that process imported is imported
    here, too.
    """
    with TemporaryDirectory() as home:
        answer = Path(home) / "answer"
        child = os.fork()
        if child == 0:
            try:
                found = _prepare(Volume(Path(home) / "models"), revision, quantization)
                answer.write_bytes(pickle.dumps((list(sys.modules), found)))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        modules, prepared = pickle.loads(answer.read_bytes())
    for name in modules:
        with suppress(ImportError):
            import_module(name)
    assert isinstance(prepared, Prepared)
    return prepared


def _prepare(volume: Volume, revision: str, quantization: str) -> Prepared:
    clients = clients_of(volume, remote=False)
    listing = resolve(clients, MODEL, revision, variant=None)
    chosen = choose_fitting(clients, listing, SERVED, target=UNBOUNDED, quantization=quantization)
    plan = plan_files(clients, listing, chosen, for_promotion=True)
    acquired = [fetch_file(clients, listing, planned) for planned in plan.files]
    return Prepared(listing, chosen, audit_acquired(clients, listing, plan.choice, acquired))


def transfer(volume: Volume, prepared: Prepared) -> None:
    """Fetch the files of a variant, publish and promote it."""
    clients = clients_of(volume, remote=False)
    plan = plan_files(clients, prepared.listing, prepared.chosen, for_promotion=True)
    acquired = tuple(fetch_file(clients, prepared.listing, planned) for planned in plan.files)
    published = publish(clients, plan, acquired, prepared.audited)
    promote_snapshot(clients, published.manifest.id, "pulled")
