"""Try each feature of an object service with small objects of its own, which are removed at the end."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256

from paddock.errors import PaddockError
from paddock.model.names import Sha256
from paddock.model.source import Expected
from paddock.store.features import StoreFeatures
from paddock.store.remote.conditional_writes import Conditions, try_conditions
from paddock.store.remote.objects import Objects
from paddock.store.remote.remote_blob import RemoteBlob
from paddock.transfer.client import RangeClient
from paddock.transfer.response import RangesNotSupported, RetryableResponseError

_CONTENT = bytes(range(256))
_STALL_S = 10.0


def probe_features(objects: Objects) -> StoreFeatures:
    """Try every feature, in some twenty requests. Raises nothing: what fails is in the report."""
    key = f"leases/features-{secrets.token_hex(8)}"
    try:
        problems = {
            "writing": _problem(lambda: _writing(objects, key)),
            "listing": _problem(lambda: _listing(objects, key)),
            "conditional writes": _problem(lambda: _conditional_writes(objects)),
            **_addresses(objects, key),
        }
        for name, trial in objects.trials(f"{key}-service").items():
            problems[name] = _problem(trial)
    finally:
        for made in (key, f"{key}-service"):
            with suppress(PaddockError):
                objects.delete(made)
    return StoreFeatures.of(objects.label, problems)


def _problem(trial: Callable[[], str]) -> str:
    try:
        return trial()
    except PaddockError as error:
        return error.message


def _writing(objects: Objects, key: str) -> str:
    objects.put(key, _CONTENT)
    found = objects.get(key)
    return "" if found is not None and found.content == _CONTENT else "what was written is not read back"


def _listing(objects: Objects, key: str) -> str:
    return "" if (key, len(_CONTENT)) in list(objects.list(key)) else "an object that was written is not listed"


def _conditional_writes(objects: Objects) -> str:
    conditions = try_conditions(objects)
    return "" if conditions is Conditions.KEPT else f"the service {conditions}"


def _addresses(objects: Objects, key: str) -> dict[str, str]:
    expected = Expected(len(_CONTENT), Sha256(sha256(_CONTENT).hexdigest()))
    source = RemoteBlob(objects.label, expected, lambda: objects.address(key))
    client = RangeClient(source, connections=1, stall_s=_STALL_S)

    def fetch(*, whole: bool) -> str:
        try:
            with client.open(1, 3, whole=whole) as body:
                fetched = b"".join(requested for _, requested in body.chunks(len(_CONTENT)))
        except RangesNotSupported:
            return "a range is answered with the whole object"
        except RetryableResponseError as error:
            return str(error)
        return "" if fetched == _CONTENT[1:3] else "other bytes than those requested were sent"

    try:
        ranges = _problem(lambda: fetch(whole=False))
        return {"ranges": ranges, "presigned addresses": ranges and _problem(lambda: fetch(whole=True))}
    finally:
        client.abort()
        client.close()
