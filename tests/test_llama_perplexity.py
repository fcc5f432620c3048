"""The figures of quality, beside those of llama.cpp's own llama-perplexity on the same text."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.local.quantize import source_model
from paddock.engine.process import run
from paddock.measure.likelihood import predict
from paddock.measure.quality import Quality, summarise
from paddock.measure.quality_text import QualityText, own_texts
from tests.support.gguf import tiny_llama
from tests.support.llama_perplexity import Figures, llama_perplexity

QUANTIZATIONS = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q2_K")


def measured(model: Path, reference: Path, text: QualityText, *, threads: int) -> Quality:
    texts = (text,)
    return summarise(predict(reference, [model], texts, threads=threads), 0, texts, model="m", reference="r", seconds=0)


def assert_same(ours: Quality, theirs: Figures) -> None:
    assert ours.perplexity.value == pytest.approx(theirs.perplexity, rel=0.005)
    # llama-perplexity rounds the reference to 16 bits.
    assert ours.kl_divergence.mean == pytest.approx(theirs.kl_mean, rel=0.005, abs=0.0006)
    assert ours.kl_divergence.median == pytest.approx(theirs.kl_median, rel=0.005, abs=0.0006)
    assert ours.kl_divergence.p99 == pytest.approx(theirs.kl_p99, rel=0.01, abs=0.002)
    assert ours.kl_divergence.max == pytest.approx(theirs.kl_max, rel=0.01, abs=0.005)
    assert ours.top1_agreement.value == pytest.approx(theirs.top1, abs=0.004)


def test_small_models_have_the_figures_of_llama_perplexity(tmp_path: Path) -> None:
    reference, model = tmp_path / "reference.gguf", tmp_path / "model.gguf"
    tiny_llama(layers=2).write(reference)
    tiny_llama().write(model)
    text = QualityText("text", "".join(own.content[:900] for own in own_texts()))
    path = tmp_path / "text.txt"
    path.write_text(text.content)
    assert_same(measured(model, reference, text, threads=1), llama_perplexity(model, reference, path, threads=1))


@pytest.mark.torture
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", QUANTIZATIONS)
def test_a_quantization_of_a_real_model_has_the_figures_of_llama_perplexity(name: str, tmp_path: Path) -> None:
    reference, model = (_quantized(tmp_path, kind) for kind in ("Q8_0", name))
    text = QualityText("text", "".join(own.content for own in own_texts()))
    path = tmp_path / "text.txt"
    path.write_text(text.content)
    ours = measured(model, reference, text, threads=2)
    theirs = llama_perplexity(model, reference, path, threads=2)
    print(f"\n{name}: ours {ours.perplexity.value:.4f} {ours.kl_divergence}, theirs {theirs}")
    assert_same(ours, theirs)


def _quantized(directory: Path, name: str) -> Path:
    path = directory / f"{name}.gguf"
    if not path.exists():
        run(
            "quantize",
            {"source": str(source_model()), "target": str(path), "type": name},
            timeout_s=600,
            reads=[source_model()],
            writes=[path.parent],
        )
    return path
