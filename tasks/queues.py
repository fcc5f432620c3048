"""Name the queue of each work pool in which scheduled runs wait, behind those that a person started."""

from __future__ import annotations

from typing import Final

NIGHT_QUEUE: Final = "night"
