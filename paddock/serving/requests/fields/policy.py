"""Fields that are accepted without effect, and fields that are refused with a reason of their own.

`docs/serving.md` lists both; a test compares them. A field that is in none of the lists and is not honoured is refused
as unknown.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from difflib import get_close_matches
from typing import Any, Final

from paddock.serving.refusal import UNSUPPORTED, RequestRefused, bad_request

WITHOUT_EFFECT: Final = frozenset(
    {"user", "safety_identifier", "metadata", "prompt_cache_key", "prompt_cache_retention"}
)
"""They are for OpenAI's own accounting and caches, and never change an answer."""

ONLY: Final[dict[str, tuple[Any, ...]]] = {
    "store": (False,),
    "service_tier": ("auto", "default"),
    "modalities": (["text"],),
    "verbosity": ("medium",),
    "best_of": (1,),
    "suffix": ("",),
    "echo": (False,),
}
"""Fields whose given values ask for what happens anyway; any other value asks for something that is not done here."""

REFUSED: Final[dict[str, str]] = {
    "audio": "answers are text only",
    "functions": "use tools",
    "function_call": "use tool_choice",
    "prediction": "predicted outputs are not used here",
    "web_search_options": "nothing is searched here",
    "dimensions": "embeddings have the model's own number of dimensions",
}
"""OpenAI's fields that are not honoured, each with what to do instead. They may be null."""

_MAX_SHOWN: Final = 60


def take_fields(body: dict[str, Any], known: Collection[str], *, elsewhere: Collection[str]) -> dict[str, Any]:
    """Return the fields of `body` that are honoured, the `known` ones. Raises RequestRefused for one that is not.

    `elsewhere` are fields of other endpoints: here they may be null."""
    for name, value in body.items():
        if name not in known and not (value is None and name in elsewhere):
            _check(name, value, known)
    return {name: value for name, value in body.items() if name in known}


def _check(name: str, value: Any, known: Collection[str]) -> None:
    """Raise RequestRefused unless the field, which is not honoured, asks for nothing."""
    if name in WITHOUT_EFFECT or (value is None and (name in ONLY or name in REFUSED)):
        return
    if name in ONLY:
        if any(type(value) is type(one) and value == one for one in ONLY[name]):
            return
        allowed = " or ".join(json.dumps(one) for one in ONLY[name])
        raise _refused(name, f"{name} can only be {allowed} here")
    if name in REFUSED:
        raise _refused(name, f"{name} is not supported: {REFUSED[name]}")
    similar = get_close_matches(name[:_MAX_SHOWN], known, n=1, cutoff=0.75)
    hint = f"; did you mean {similar[0]}?" if similar else ""
    raise _refused(name, f"{name[:_MAX_SHOWN]!r} is not a supported parameter here{hint}")


def _refused(name: str, message: str) -> RequestRefused:
    return bad_request(message, param=name, code=UNSUPPORTED)
