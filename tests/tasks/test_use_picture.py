"""The picture of a volume's use is well-formed, small, and shows what it is given."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree

import pytest

from paddock.lifecycle.upkeep.volume_use import MOST_MODELS, MOST_SAMPLES, UseHistory, UseSample
from tasks.use_picture import draw

GIB = 1024**3
BEGIN = datetime(2026, 5, 3, 3, 30, tzinfo=UTC)


def history(*samples: UseSample) -> UseHistory:
    return UseHistory(samples)


def drawn(history: UseHistory) -> tuple[ElementTree.Element, list[str]]:
    """The picture and its texts. Every number in it is within its frame."""
    text = draw(history, title="Use of the volume /models")
    picture = ElementTree.fromstring(text)
    width, height = (int(picture.attrib[name]) for name in ("width", "height"))
    for path in re.findall(r' d="([^"]+)"', text):
        numbers = [int(number) for number in re.findall(r"-?\d+", path)]
        assert all(0 <= number <= max(width, height) for number in numbers)
    return picture, [element.text or "" for element in picture.iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize(
    ("size", "label"),
    [(0, "1 B"), (1, "1 B"), (999, "1000 B"), (1024, "1 KiB"), (7 * GIB, "8 GiB"), (5 * 1024 * GIB, "5 TiB")],
)
def test_the_axis_has_a_unit_and_ends_above_the_use(size: int, label: str) -> None:
    _, texts = drawn(history(UseSample(BEGIN, 10_000 * 1024 * GIB, {"org/a": size})))
    assert label in texts


def test_the_legend_has_each_model_with_its_present_size() -> None:
    first = UseSample(BEGIN, 4 * GIB, {"org/large": 5 * GIB, "org/gone": GIB})
    last = UseSample(BEGIN + timedelta(days=30), 5 * GIB, {"org/large": 4 * GIB}, GIB // 2, GIB // 4)
    _, texts = drawn(history(first, last))
    names = ["org/large", "org/gone", "other models", "in no snapshot"]
    assert [(name, texts[texts.index(name) + 1]) for name in names] == [
        ("org/large", "4.0 GiB"),
        ("org/gone", "0 B"),
        ("other models", "512.0 MiB"),
        ("in no snapshot", "256.0 MiB"),
    ]
    assert "4.8 GiB used, 5.0 GiB free" in texts
    assert "used and free space" in texts
    assert any("May 2026" in text for text in texts)


def test_two_years_of_many_models_are_a_small_picture() -> None:
    models = {
        f"organisation-{number}/model-with-a-long-name-{number}-GGUF": number * GIB for number in range(MOST_MODELS)
    }
    samples = [UseSample(BEGIN + timedelta(days=day), 10 * GIB, models) for day in range(MOST_SAMPLES)]
    picture, texts = drawn(history(*samples))
    assert len(ElementTree.tostring(picture)) < 40_000
    assert "other models" in texts


def test_text_is_escaped() -> None:
    text = draw(history(UseSample(BEGIN, 1, {})), title="<script>&")
    assert "<title>&lt;script&gt;&amp;</title>" in text
