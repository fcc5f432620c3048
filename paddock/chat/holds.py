"""The properties of values that `flow` follows through a template."""

from __future__ import annotations

from typing import Final


class Holds:
    """Kinds of values that an expression may hold, as bits of an integer.

    An `enum.Flag` would take half of the time of an analysis.

    `DATE`: something that depends on the date. `TEXT`: a string with letters that the template's author knows, such as
    a literal, a role, or data written as JSON. `TEXTS`: a container with such strings. `TYPE`: the type of a message's
    part or of a tool's parameter, which the author knows if it is a string. `KEY`: what a loop goes through, such as
    the keys of a mapping, and `KEYS`: a container of them. `LITERAL`: a list or mapping written in the template.
    `NUMBER`: a number that the author knows.

    `FUNCTION` (also a class or a macro), `METHOD`, `NAMESPACE`, `LOOP` and `GENERATOR` are objects: printed, they are
    Python's descriptions of them.
    """

    NOTHING: Final = 0
    DATE: Final = 1
    TEXT: Final = 2
    TEXTS: Final = 4
    TYPE: Final = 8
    KEY: Final = 16
    KEYS: Final = 32
    LITERAL: Final = 64
    NUMBER: Final = 128
    FUNCTION: Final = 256
    METHOD: Final = 512
    NAMESPACE: Final = 1024
    LOOP: Final = 2048
    GENERATOR: Final = 4096
    EVERYTHING: Final = 8191


OBJECTS: Final = Holds.FUNCTION | Holds.METHOD | Holds.NAMESPACE | Holds.LOOP | Holds.GENERATOR
