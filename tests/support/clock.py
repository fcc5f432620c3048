"""A fake clock for code that takes its clock as a parameter."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class FakeClock:
    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s
