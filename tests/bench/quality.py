"""Compare the time of a quality measurement with llama-perplexity's on the same models and text.

llama-perplexity runs twice: it saves the logits of the reference, and reads them again.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from paddock.engine import process
from paddock.measure.likelihood import predict
from paddock.measure.quality_text import QualityText, own_texts
from paddock.model.hardware import this_machine
from tests.support.engine import real_model
from tests.support.llama_perplexity import llama_perplexity

MAX_RATIO = 1.15
_TEXT_BYTES = 12_000


def run(rounds: int) -> bool:
    """Print the ratio of the fastest rounds, and return whether the bound is met."""
    threads = this_machine().cores
    text = QualityText("text", "".join(own.content for own in own_texts())[:_TEXT_BYTES])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "text.txt")
        path.write_text(text.content)
        reference, model = Path(folder, "reference.gguf"), real_model()
        arguments = {"source": str(model), "target": str(reference), "type": "Q8_0"}
        process.run("quantize", arguments, timeout_s=600, reads=[model], writes=[Path(folder)])

        def theirs() -> None:
            path.with_suffix(".logits").unlink(missing_ok=True)
            llama_perplexity(model, reference, path, threads=threads)

        theirs_s, ours_s = [], []
        for _ in range(rounds):
            theirs_s.append(_seconds(theirs))
            ours_s.append(_seconds(lambda: predict(reference, [model], [text], threads=threads)))
    ratio = min(ours_s) / min(theirs_s)
    print(
        f"quality: paddock to llama-perplexity: {min(ours_s):.1f} to {min(theirs_s):.1f} s, {ratio:.3f}"
        f" (bound: at most {MAX_RATIO})"
    )
    return ratio <= MAX_RATIO


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
