"""Quality against a reference: perplexity, KL divergence and agreement, on small real models."""

from __future__ import annotations

import json
import os
import struct
from dataclasses import replace
from math import log
from pathlib import Path

import numpy as np
import pytest

from paddock.errors import BadSetting, ConflictingConfiguration, DoesNotFit, ModelRejected, NoSuchFile
from paddock.measure.answers import Answers
from paddock.measure.likelihood import CHUNK_TOKENS, Comparison, TokenLikelihoods, predict
from paddock.measure.quality import Quality, block_means, interval, summarise
from paddock.measure.quality_text import KINDS, QualityText, own_texts, read_text
from paddock.measure.roleplay import Roleplay, Trait
from paddock.model.hardware import this_machine
from tests.support.gguf import (
    ARRAY,
    BOOL,
    F32,
    I32,
    STRING,
    TYPE_F16,
    U32,
    Gguf,
    array,
    byte_vocabulary,
    tiny_llama,
)

TEXTS = (QualityText("first", "All that is gold does not glitter. " * 90), QualityText("second", "Not all. " * 70))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two models with one vocabulary."""
    directory = tmp_path_factory.mktemp("models")
    paths = directory / "one.gguf", directory / "two.gguf"
    for layers, path in enumerate(paths, 1):
        tiny_llama(layers=layers).write(path)
    return paths


@pytest.fixture(scope="module")
def compared(models: tuple[Path, Path]) -> Comparison:
    return predict(models[0], [models[1], models[0]], TEXTS, threads=1)


def test_the_second_half_of_each_chunk_is_predicted(compared: Comparison) -> None:
    predicted = CHUNK_TOKENS // 2 - 1
    assert compared.texts == (("first", 6 * 512, 6 * predicted), ("second", 512, predicted))
    assert {len(one.nll) for one in (compared.reference, *compared.candidates)} == {7 * predicted}
    assert [(name, span) for name, _, span in compared.spans()] == [
        ("first", slice(0, 6 * predicted)),
        ("second", slice(6 * predicted, 7 * predicted)),
    ]


def test_another_model_diverges_and_the_reference_itself_does_not(compared: Comparison) -> None:
    other, same = compared.candidates
    assert (same.kl == 0).all()
    assert same.agrees.all()
    assert (same.nll == compared.reference.nll).all()
    assert other.kl.mean() > 0
    assert (other.kl >= 0).all()
    assert not (other.nll == compared.reference.nll).all()


def test_figures_are_summed_up_with_intervals(compared: Comparison) -> None:
    quality = summarise(compared, 0, TEXTS, model="a", reference="b", seconds=1.25)
    nll = compared.candidates[0].nll.astype(float)
    assert log(quality.perplexity.value) == pytest.approx(nll.mean(), rel=1e-6)
    assert quality.perplexity.low <= quality.perplexity.value <= quality.perplexity.high
    kl = quality.kl_divergence
    assert 0 < kl.ci95[0] <= kl.mean <= kl.ci95[1]
    assert kl.median <= kl.p99 <= kl.p999 <= kl.max
    assert [text.name for text in quality.texts] == ["first", "second"]
    assert quality.tokens == 7 * 512
    assert Quality.from_json(json.loads(json.dumps(quality.to_json()))) == quality
    played = Roleplay("0" * 64, (Trait("ends", 1, 2),), Trait("whole", 1, 2), (True, False))
    complete = replace(quality, answers=Answers(4, 4, True), roleplay=played, reference_roleplay=played)
    assert Quality.from_json(json.loads(json.dumps(complete.to_json()))) == complete
    assert complete.to_json()["answers"]["match"] is True
    older = {name: item for name, item in quality.to_json().items() if not name.endswith(("answers", "roleplay"))}
    assert Quality.from_json(older) == quality


def test_an_interval_covers_the_true_mean_of_dependent_values_about_as_often_as_it_says() -> None:
    """Neighbouring values depend on each other: an interval that took them for independent would cover half of it."""
    generator = np.random.default_rng(3)
    covered = 0
    for _ in range(100):
        noise = generator.standard_normal(255 * 16)
        values = np.convolve(noise, np.ones(12) / 12**0.5, mode="same").astype(np.float32)
        figures = TokenLikelihoods(values, values, values > 0)
        low, high = interval(
            block_means(values, Comparison((("text", 8192, len(values)),), figures, ())),
            lambda sample: sample.mean(axis=-1),
        )
        covered += low <= 0 <= high
    assert 88 <= covered <= 99


def test_as_many_tokens_are_used_of_each_text(models: tuple[Path, Path]) -> None:
    limited = predict(models[0], [models[1]], TEXTS, threads=1, limit_tokens=2 * CHUNK_TOKENS)
    assert [used for _, used, _ in limited.texts] == [512, 512]


def test_a_text_of_less_than_a_chunk_is_refused(models: tuple[Path, Path]) -> None:
    with pytest.raises(BadSetting, match="has 12 tokens, and at least 512 are needed"):
        predict(models[0], [models[1]], [QualityText("short", "Too short.")], threads=1)


def test_models_of_different_vocabularies_are_refused(models: tuple[Path, Path], tmp_path: Path) -> None:
    swapped = tiny_llama()
    swapped.set("tokenizer.ggml.add_bos_token", BOOL, False)  # another beginning of each text
    other = tmp_path / "other.gguf"
    swapped.write(other)
    with pytest.raises(ConflictingConfiguration, match="different vocabularies"):
        predict(models[0], [other], TEXTS, threads=1)


def test_a_model_that_predicts_no_text_is_refused(models: tuple[Path, Path], tmp_path: Path) -> None:
    other = tmp_path / "projector.gguf"
    tiny_llama().set("general.architecture", STRING, "clip").write(other)
    with pytest.raises(ConflictingConfiguration, match="predicts no text"):
        predict(models[0], [other], TEXTS, threads=1)


def test_a_model_whose_logits_are_not_finite_is_refused(models: tuple[Path, Path], tmp_path: Path) -> None:
    other = tmp_path / "broken.gguf"
    broken = tiny_llama()
    norm = broken.tensor("output_norm.weight")
    norm.data = struct.pack(f"<{norm.shape[0]}f", *[float("nan")] * norm.shape[0])
    broken.write(other)
    with pytest.raises(ModelRejected, match="the model gives logits that are not finite"):
        predict(models[0], [other], TEXTS, threads=1)


def test_models_that_do_not_fit_together_are_refused_before_they_are_loaded(models: tuple[Path, Path]) -> None:
    machine = replace(this_machine(), ram_available_bytes=2**20)
    with pytest.raises(DoesNotFit, match="at once"):
        predict(models[0], [models[1]], TEXTS, threads=1, machine=machine)


def test_paddocks_own_texts_are_of_several_kinds_and_long_enough() -> None:
    texts = own_texts()
    assert tuple(text.name for text in texts) == KINDS
    assert len({text.sha256 for text in texts}) == len(KINDS)
    assert sum(len(text.content) for text in texts) > 4 * 8000


def test_a_text_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("Grüße aus Wien")
    assert read_text(path) == QualityText("text.txt", "Grüße aus Wien")
    path.write_bytes(b"a" * (4 * 2**20 - 1) + "ü".encode())
    assert read_text(path).content == "a" * (4 * 2**20 - 1)


@pytest.mark.parametrize(
    ("content", "error"), [(b"", "empty"), (b" \n", "empty"), (b"\xff\xfe text", "byte 0 is 0xff")], ids=str
)
def test_what_is_no_text_is_named(content: bytes, error: str, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with pytest.raises(BadSetting, match=error):
        read_text(path)


def test_a_text_that_is_not_there_or_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoSuchFile):
        read_text(tmp_path / "none")
    os.mkfifo(tmp_path / "pipe")
    for name in (".", "pipe"):
        with pytest.raises(BadSetting, match=r"is a directory|not a regular file"):
            read_text(tmp_path / name)


def with_vocabulary(count: int, seed: int) -> Gguf:
    """A model with random weights and so many tokens, most of which occur in no text."""
    file = tiny_llama()
    size = len(byte_vocabulary())
    more = count - size
    file.set("tokenizer.ggml.tokens", ARRAY, array(STRING, [*byte_vocabulary(), *(f"<w{n}>" for n in range(more))]))
    file.set("tokenizer.ggml.scores", ARRAY, array(F32, [-float(number) for number in range(count)]))
    file.set("tokenizer.ggml.token_type", ARRAY, array(I32, [2, 3, 3, *([6] * 256), *([1] * (count - 259))]))
    file.set("llama.vocab_size", U32, count)
    embedding = file.tensor("token_embd.weight")
    width = embedding.shape[0]
    embedding.shape, embedding.kind = (width, count), TYPE_F16
    embedding.data = (np.random.default_rng(seed).standard_normal(width * count) * 0.1).astype("<f2").tobytes()
    return file


@pytest.mark.torture
def test_a_large_vocabulary_takes_little_memory(tmp_path: Path) -> None:
    paths = []
    for seed in range(2):
        paths.append(tmp_path / f"{seed}.gguf")
        with_vocabulary(262_144, seed).write(paths[-1])
    text = QualityText("text", "".join(own.content for own in own_texts()))
    compared = predict(paths[0], [paths[1]], [text], limit_tokens=2048)
    print(f"\n2,048 tokens of a vocabulary of 262,144: {compared.peak_rss_bytes / 1e9:.2f} GB at most")
    assert compared.texts[0][1] == 2048
    assert compared.candidates[0].kl.mean() > 0
    assert compared.peak_rss_bytes < 1.5e9
