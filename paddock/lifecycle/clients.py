"""Make the clients of the Hub, the volume and the remote store.

They are made once, where a program starts, and passed to everything else as an argument.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from paddock import settings as environment
from paddock.errors import BadSetting
from paddock.hub import Hub
from paddock.settings import SETTINGS, Settings, StoredSecret
from paddock.store.protocol import RemoteStore
from paddock.store.volume import Volume

REMOTE_STORES = {"s3": "paddock.store.s3"}
"""The packages of remote stores, by the scheme of PADDOCK_S3_URI. Each has `open_store(uri, settings) -> RemoteStore`,
and is imported when its scheme is used."""


@dataclass(frozen=True, slots=True)
class Clients:
    """The clients and settings of a process. `remote` is None where PADDOCK_S3_URI is not set."""

    settings: Settings
    hub: Hub
    volume: Volume
    remote: RemoteStore | None


def connect(settings: Settings | None = None) -> Clients:
    """Make the clients, by default from the environment. Sends no request and touches no file. Raises BadSetting."""
    settings = settings or environment.load()
    return Clients(
        settings=settings,
        hub=Hub(settings),
        volume=Volume(settings.volume, worker=settings.worker),
        remote=open_remote_store(settings.s3_uri, settings) if settings.s3_uri else None,
    )


def connect_with(catalog: str | None, stored: Mapping[str, StoredSecret] | None = None) -> Clients:
    """Clients from the environment, whose settings name this catalog: gates and retention are decided by it. None: that
    of the environment. `stored` has secrets that the environment lacks. Raises BadSetting."""
    settings = environment.load(stored)
    if catalog is not None:
        settings = replace(settings, catalog=SETTINGS["catalog"].read(catalog, source="--catalog", cure="correct it"))
    return connect(settings)


def open_remote_store(uri: str, settings: Settings, *, setting: str = "PADDOCK_S3_URI") -> RemoteStore:
    """The remote store at an address, which is from `setting`. Raises BadSetting for a scheme that is not in
    REMOTE_STORES."""
    package = REMOTE_STORES.get(uri.partition("://")[0])
    if package is None:
        usable = " or ".join(f"{scheme}://bucket/prefix" for scheme in REMOTE_STORES)
        raise BadSetting(f"{setting} is not usable: expected {usable}", cure="correct it, or unset it")
    store: RemoteStore = importlib.import_module(package).open_store(uri, settings)
    return store


def require_remote(clients: Clients) -> RemoteStore:
    """The remote store. Raises BadSetting where none is set."""
    if clients.remote is None:
        raise BadSetting(
            "PADDOCK_S3_URI is not set: there is no S3 to copy to or restore from",
            cure="set it to s3://bucket/prefix",
        )
    return clients.remote
