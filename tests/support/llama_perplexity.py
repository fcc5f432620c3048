"""Run llama.cpp's own llama-perplexity, built for the installed engine, and read what it prints."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support import llama_tools


@dataclass(frozen=True)
class Figures:
    """What llama-perplexity prints."""

    perplexity: float
    kl_mean: float
    kl_median: float
    kl_p99: float
    kl_max: float
    top1: float


def llama_perplexity(model: Path, reference: Path, text: Path, *, threads: int) -> Figures:
    """Compare a model with a reference, whose logits are computed by the first call for a text and kept beside it."""
    logits = text.with_suffix(".logits")
    command = [llama_tools.program("llama-perplexity"), "-f", text, "-c", "512", "-b", "512", "-t", str(threads)]
    if not logits.exists():
        _run([*command, "-m", reference, "--save-all-logits", logits])
    printed = _run([*command, "-m", model, "--kl-divergence-base", logits, "--kl-divergence"])

    def figure(name: str) -> float:
        (value,) = re.findall(rf"^{re.escape(name)} *: *(-?[0-9.]+)", printed, re.MULTILINE)
        return float(value)

    return Figures(
        perplexity=figure("Mean PPL(Q)"),
        kl_mean=figure("Mean    KLD"),
        kl_median=figure("Median  KLD"),
        kl_p99=figure("99.0%   KLD"),
        kl_max=figure("Maximum KLD"),
        top1=figure("Same top p") / 100,
    )


def _run(command: list[object]) -> str:
    done = subprocess.run(
        [str(part) for part in command], env=llama_tools.environment(), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-2000:])
    return done.stdout
