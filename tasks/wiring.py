"""Parse the parameters of flows into the types of the library."""

from __future__ import annotations

from dataclasses import replace

from paddock.errors import BadSetting
from paddock.model.reference import Reference


def reference(model: str, revision: str | None) -> Reference:
    """The reference of a `model` parameter and a `revision` parameter. The default `main` gives way to a revision in
    `model`. Raises UnsafeName, and BadSetting if the two name different revisions."""
    wanted = Reference.parse(model)
    if wanted.ref is None:
        return replace(wanted, ref=revision)
    if revision not in {None, "main", wanted.ref}:
        raise BadSetting(
            f"the model {model} and the revision {revision} name different revisions", cure="give the revision once"
        )
    return wanted
