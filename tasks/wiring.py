"""The clients of a run, made from the environment of the process that runs it. Parameters never carry a secret."""

from __future__ import annotations

from dataclasses import replace

from paddock.errors import BadSetting
from paddock.lifecycle.parts import Parts, connect
from paddock.model.reference import Reference


def parts() -> Parts:
    """Make the clients anew: that costs nothing, and a test or a worker may have changed the environment."""
    return connect()


def reference(model: str, revision: str | None) -> Reference:
    """MODEL and the revision that a flow was given beside it. Raises UnsafeName, and BadSetting where the two say
    different revisions; `main`, which a form fills in, gives way."""
    wanted = Reference.parse(model)
    if wanted.ref is None:
        return replace(wanted, ref=revision)
    if revision not in {None, "main", wanted.ref}:
        raise BadSetting(f"the model is {model}, and the revision {revision}", cure="say the revision once")
    return wanted
