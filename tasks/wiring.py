"""Make what a flow works with from its parameters and the environment of its process. Parameters carry no secret."""

from __future__ import annotations

from dataclasses import replace

from paddock.errors import BadSetting
from paddock.model.reference import Reference


def reference(model: str, revision: str | None) -> Reference:
    """MODEL and the revision that a flow was given beside it. Raises UnsafeName, and BadSetting where the two name
    different revisions; `main`, which a form fills in, gives way."""
    wanted = Reference.parse(model)
    if wanted.ref is None:
        return replace(wanted, ref=revision)
    if revision not in {None, "main", wanted.ref}:
        raise BadSetting(f"the model is {model}, and the revision {revision}", cure="give the revision once")
    return wanted
