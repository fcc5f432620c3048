"""The machine that a model is meant for, as a parameter says it."""

from __future__ import annotations

from paddock.model.hardware import this_machine
from paddock.model.units import parse_bytes

THIS_MACHINE = "this-machine"


def memory_of(target: str) -> int:
    """The memory of the target in bytes: this machine's, or what the parameter says (`24GiB`). Raises BadSetting."""
    return this_machine().ram_bytes if target == THIS_MACHINE else parse_bytes(target)
