"""Decide whether a target describes a machine that was measured: the inverse of planning for a target.

A target with a GPU's name describes a machine whose GPUs have that name, that number and that memory; one with a size
of GPUs, or of main memory, describes a machine whose memory is that size. A machine reports less memory than it is sold
with, since firmware and drivers keep some: up to `KEPT_SHARE` of it. Host memory counts only where the target states
it. `any` describes every machine.
"""

from __future__ import annotations

import re
from typing import Final

from paddock.model.gpu import Gpu
from paddock.model.hardware import Machine
from paddock.model.units import parse_bytes
from paddock.planning.targets import ANY, CARDS_MIB, THIS_MACHINE, split_target

KEPT_SHARE: Final = 0.08
_INSIGNIFICANT: Final = re.compile(
    r"nvidia|geforce|quadro|tesla|generation|graphics|sxm[0-9]?|pcie?|hbm[0-9]e?|nvl|[0-9]+gb"
)


def specificity(target: str, machine: Machine, *, is_this_machine: bool) -> int:
    """How closely a target describes a machine: 0 if it does not, and more for one that says more. Raises BadSetting
    for a text that is no target."""
    name = target.strip().lower()
    if name == ANY:
        return 1
    if name == THIS_MACHINE:
        return 3 if is_this_machine else 0
    parts = split_target(name)
    if parts.ram is not None and not _is_sold_with(machine.ram_bytes, parse_bytes(parts.ram)):
        return 0
    if parts.card is None:
        return 2 if not machine.gpus else 0
    if len(machine.gpus) != parts.count or not all(_is_card(gpu, parts.card) for gpu in machine.gpus):
        return 0
    return (4 if parts.card in CARDS_MIB else 2) + (parts.ram is not None)


def _is_card(gpu: Gpu, card: str) -> bool:
    if card not in CARDS_MIB:
        return _is_sold_with(gpu.vram_bytes, parse_bytes(card.removesuffix("-gpu")))
    return _words(gpu.name) == _words(card) and _is_sold_with(gpu.vram_bytes, CARDS_MIB[card] * 2**20)


def _words(name: str) -> frozenset[str]:
    """The words that tell apart cards: without the maker's, and without the size of the memory."""
    words = re.findall(r"[a-z0-9]+", name.lower())
    return frozenset(word for word in words if not _INSIGNIFICANT.fullmatch(word))


def _is_sold_with(reported_bytes: int, nominal_bytes: int) -> bool:
    return nominal_bytes * (1 - KEPT_SHARE) <= reported_bytes <= nominal_bytes * 1.02
