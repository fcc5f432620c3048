"""Pictures show the figures that they are given, are well-formed and small, and take hostile text for text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from io import BytesIO
from math import inf, nan
from xml.etree import ElementTree

import pytest
from PIL import Image

from paddock.engine.oracle import Memory
from paddock.measure.benchmark_report import Benchmark, LengthResult
from paddock.measure.load_test import LevelResult, LoadTest, Percentiles
from paddock.measure.pictures.canvas import clean, number, shown
from paddock.measure.pictures.latency import draw_latency
from paddock.measure.pictures.memory import MemoryBar, draw_memory
from paddock.measure.pictures.pareto import Choice, draw_pareto
from paddock.measure.pictures.picture import Picture
from paddock.measure.pictures.quality import VariantQuality, draw_quality
from paddock.measure.pictures.runs import PastRun, draw_runs
from paddock.measure.pictures.throughput import draw_throughput
from paddock.model.hardware import Machine

MIB = 2**20
MEMORY = Memory(
    weights_bytes=144 * MIB, kv_cache_bytes=90 * MIB, compute_bytes=9 * MIB, output_bytes=MIB, source="engine"
)
HOSTILE = "_$\\frac{1}{0}$ <script>alert('1')</script>&\x00\u202e 模型 " + "x" * 200
BENCHMARK = Benchmark(
    results=(
        LengthResult(256, 0, 812.3, None, 0.03, 5),
        LengthResult(0, 64, None, 61.2, 0.02, 5),
        LengthResult(1024, 0, 780.0, None, 0.5, 3),
        LengthResult(0, 256, None, None, None, 0),
    ),
    time_to_first_token_s=0.31,
    load_s=1.0,
    memory=MEMORY,
    peak_rss_bytes=300 * MIB,
    canary=(1,),
    machine=Machine("Test CPU", 2, 8 * 2**30, 5 * 2**30),
    engine="llama-cpp-python 0.3.36",
    parameters={"n_ctx": 4096},
    schema=3,
    measured_at="2026-11-29T10:00:00+00:00",
)
DISTURBED = replace(BENCHMARK, doubts=(f"other processes used {HOSTILE}",))


def level(concurrency: int, *, answered: bool = True) -> LevelResult:
    percentiles = Percentiles(0.8 * concurrency, 0.9 * concurrency, concurrency, concurrency) if answered else None
    errors = {} if answered else {HOSTILE: 4}
    return LevelResult(concurrency, 4, 4 if answered else 0, errors, 3.0, 40.0, percentiles, percentiles, None)


def load_test(*levels: LevelResult) -> LoadTest:
    return LoadTest("model", 64, streamed=True, levels=levels)


def variants(name: str) -> list[VariantQuality]:
    return [
        VariantQuality(name, 100 * MIB, 0.031, (0.027, 0.036), is_subject=True),
        VariantQuality("Q8_0", 144 * MIB, 0.0, (-1e-9, 0.0007)),
        VariantQuality("broken", 144 * MIB, nan, (nan, nan)),
    ]


def choices(name: str) -> list[Choice]:
    return [
        Choice(name, 100 * MIB, 70.0, 0.031, 0.4, is_subject=True),
        Choice("Q8_0", 144 * MIB, 55.0, 0.0, 0.5, reliable=False),
        Choice("unmeasured", 80 * MIB, None, 0.2),
    ]


def runs(name: str) -> list[PastRun]:
    return [PastRun(f"2026-11-{day:02}", name, 800.0, 60.0 + day, 0.3, day != 3) for day in range(1, 6)]


def memory_uses(name: str, limit_bytes: int | None = 200 * MIB) -> list[MemoryBar]:
    return [MemoryBar(name, MEMORY, 256 * MIB, limit_bytes, f"memory of {name}")]


DRAWN: Mapping[str, Callable[[str], Picture | None]] = {
    "memory": lambda text: draw_memory(memory_uses(text), title=text),
    "throughput": lambda text: draw_throughput(DISTURBED, title=text),
    "latency": lambda text: draw_latency(load_test(level(1), level(8), level(16, answered=False)), title=text),
    "quality": lambda text: draw_quality(
        variants(text), reference=text, reference_bytes=270 * MIB, texts="Paddock's texts", title=text
    ),
    "pareto": lambda text: draw_pareto(choices(text), where=text, title=text),
    "runs": lambda text: draw_runs(runs(text), title=text),
}


@cache
def drawn(name: str) -> Picture:
    """The picture with hostile texts: each is drawn once for all tests."""
    picture = DRAWN[name](HOSTILE)
    assert picture is not None
    return picture


def texts_of(picture: Picture | None) -> list[str]:
    assert picture is not None
    elements = ElementTree.fromstring(picture.svg).iter("{http://www.w3.org/2000/svg}text")
    return [element.text or "" for element in elements]


@pytest.mark.parametrize("name", DRAWN)
def test_hostile_texts_are_text_and_both_formats_are_sound_and_small(name: str) -> None:
    picture = drawn(name)
    assert picture.name == name
    for part in (picture.svg, picture.alt, picture.title):
        assert "\x00" not in part
        assert "\u202e" not in part
    assert "<script" not in picture.svg
    assert any("$\\frac{1}{0}$" in text for text in texts_of(picture))  # as it came, and not as a formula
    with Image.open(BytesIO(picture.png)) as image:
        assert image.width == 1020
        assert len(image.convert("RGB").getcolors(100_000) or ()) > 10
    assert len(picture.png) < 60_000
    assert len(picture.svg) < 60_000


def test_the_same_figures_give_the_same_bytes() -> None:
    assert DRAWN["memory"](HOSTILE) == drawn("memory")


def test_memory_is_drawn_against_the_limit_of_each_machine() -> None:
    """A limit that is not known or far away is not drawn."""
    uses = [use for limit in (600 * MIB, 400 * MIB, None, 2**62) for use in memory_uses(f"{limit}", limit)]
    picture = draw_memory(uses, title="Memory")
    texts = texts_of(picture)
    assert [text for text in texts if text.startswith("memory of ")] == [
        f"memory of {600 * MIB}: 600.0 MiB",
        f"memory of {400 * MIB}: 400.0 MiB",
    ]
    assert {"weights", "KV cache", "compute buffers", "output buffer", "margin, which stays free", "MiB"} <= set(texts)
    assert "projector" not in texts
    assert [" too much" in use.sentence for use in uses] == [False, True, False, False]


def test_what_was_not_measured_has_no_point() -> None:
    texts = texts_of(draw_throughput(BENCHMARK, title="Throughput"))
    assert {"812", "780", "61.2", "1,024"} <= set(texts)
    assert "256" in texts  # of the prompt
    assert texts.count("256") == 1
    assert not any("hollow" in text for text in texts)


@pytest.mark.parametrize("name", ["throughput", "pareto", "runs"])
def test_a_result_that_is_not_reliable_is_said_to_be_so(name: str) -> None:
    assert "hollow: not reliable" in texts_of(drawn(name))
    assert "not reliable" in drawn(name).alt


def test_failed_requests_are_stated_and_not_drawn() -> None:
    texts = texts_of(drawn("latency"))
    assert any(text.startswith("Failed, and not counted: 4 × ") for text in texts)
    assert {"1", "8"} <= set(texts)
    assert "16" not in texts


def test_variants_without_a_figure_are_named() -> None:
    texts = texts_of(drawn("pareto"))
    assert "Not drawn, since not measured: unmeasured." in texts
    assert any("price of a million tokens" in text for text in texts)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: draw_throughput(replace(BENCHMARK, results=BENCHMARK.results[3:]), title=""),
        lambda: draw_latency(load_test(level(1, answered=False)), title=""),
        lambda: draw_quality(variants("")[2:], reference="", reference_bytes=None, texts="", title=""),
        lambda: draw_pareto(choices("")[2:], where="", title=""),
        lambda: draw_runs([PastRun("", "", None, inf, nan, reliable=True)], title=""),
        lambda: draw_runs([], title=""),
    ],
    ids=["throughput", "latency", "quality", "pareto", "runs", "no runs"],
)
def test_where_nothing_was_measured_there_is_no_picture(draw: Callable[[], Picture | None]) -> None:
    assert draw() is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.000123, "0.000123"),
        (0.0456, "0.0456"),
        (1, "1"),
        (61.23, "61.2"),
        (812.3, "812"),
        (12345, "12,345"),
    ],
)
def test_figures_have_three_digits_and_no_exponent(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("a\nb\x07c", "a b c"),
        ("é Ж 模", "é Ж □"),
        ("\ud800\u200fx", "x"),
        ("_hidden", " _hidden"),
        ("x" * 61, "x" * 59 + "…"),
    ],
    ids=["control", "glyphs", "surrogates", "underscore", "long"],
)
def test_labels_are_clean_short_and_not_hidden(text: str, label: str) -> None:
    assert shown(text) == label
    assert clean(clean(text)) == clean(text)
