"""Say what log lines are about: the flow run, model, revision and variant that a process or a block works on.

Lines in JSON have these fields where they are known (`paddock.cli.logs`). A thread that a block starts does not know
the block's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

FIELDS = ("run", "model", "revision", "variant")
"""`run` is the id of a Prefect flow run."""

_of_process: dict[str, str] = {}
_of_block: ContextVar[Mapping[str, str]] = ContextVar("log_fields", default={})  # noqa: B039 - it is replaced as a whole


@contextmanager
def process_fields(**fields: str) -> Iterator[Callable[[Mapping[str, str]], None]]:
    """Set fields of the lines of all threads of this process until the block ends, such as the model that it serves.
    Yields a function that changes them."""

    def change(fields: Mapping[str, str]) -> None:
        _check(fields)
        _of_process.update(fields)

    change(fields)
    try:
        yield change
    finally:
        _of_process.clear()


@contextmanager
def log_fields(**fields: str) -> Iterator[None]:
    """Set fields of the lines of a block, beside those of the blocks around it."""
    _check(fields)
    token = _of_block.set({**_of_block.get(), **fields})
    try:
        yield
    finally:
        _of_block.reset(token)


def current_fields() -> dict[str, str]:
    """The fields that are known here, in the order of FIELDS."""
    known = {**_of_process, **_of_block.get()}
    return {name: known[name] for name in FIELDS if name in known}


def _check(fields: Mapping[str, str]) -> None:
    if not fields.keys() <= set(FIELDS):
        raise ValueError(f"unknown fields: {', '.join(sorted(fields.keys() - set(FIELDS)))}")
