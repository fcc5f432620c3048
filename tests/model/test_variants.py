"""The names of a revision's variants: which are named by quantization, which by path, and that all are usable."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock.gguf.survey import survey_names
from paddock.model.quantization import GgufSet, group_shards
from paddock.model.reference import RESERVED_VARIANTS, VARIANT_MAX_BYTES, Variant, parse_variant
from paddock.model.variants import match_models, name_variants, variant_with_projector
from paddock.planning.file_selection import find_variant

GB = 10**9


def named(sets: list[GgufSet], published: dict[str, Variant] | None = None) -> dict[GgufSet, Variant]:
    return name_variants(survey_names(sets).models, published=published)


def names_of(*files: str | tuple[str, int]) -> dict[str, str]:
    """The variant of each model, by its first path."""
    listed = [(one, GB) if isinstance(one, str) else one for one in files]
    return {one.first: str(name) for one, name in named(group_shards(listed)).items()}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["m-Q8_0.gguf", "m-Q4_K_M.gguf"], {"m-Q8_0.gguf": "Q8_0", "m-Q4_K_M.gguf": "Q4_K_M"}),
        (["m-UD-Q4_K_XL.gguf"], {"m-UD-Q4_K_XL.gguf": "UD-Q4_K_XL"}),
        (["m-fp16.gguf"], {"m-fp16.gguf": "F16"}),
        (["model.gguf"], {"model.gguf": "model"}),
        (["deep/er/model.gguf"], {"deep/er/model.gguf": "deep-er-model"}),
        (
            ["x/m-Q8_0.gguf", "a-long-m-Q8_0.gguf", "m-Q8_0.gguf"],
            {"m-Q8_0.gguf": "Q8_0", "a-long-m-Q8_0.gguf": "a-long-m-Q8_0", "x/m-Q8_0.gguf": "x-m-Q8_0"},
        ),
        (["Q8_0/m-00001-of-00002.gguf", "Q8_0/m-00002-of-00002.gguf"], {"Q8_0/m-00001-of-00002.gguf": "Q8_0"}),
        (["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"], {"m-00001-of-00002.gguf": "m"}),
        (["m-Q8_0.gguf", "mmproj-F16.gguf"], {"m-Q8_0.gguf": "Q8_0"}),
    ],
    ids=[
        "labels",
        "dynamic",
        "an old spelling",
        "none",
        "by path",
        "one label",
        "shards",
        "shards by path",
        "projector",
    ],
)
def test_a_variant_is_named_by_its_quantization_else_by_its_path(files: list[str], expected: dict[str, str]) -> None:
    assert names_of(*files) == expected


def test_the_largest_model_is_named_by_its_quantization_and_a_smaller_model_by_its_path() -> None:
    draft, main = ("d-Q8_0.gguf", GB // 10), ("a-large-model-Q8_0.gguf", 7 * GB)
    assert names_of(draft, main) == {"a-large-model-Q8_0.gguf": "Q8_0", "d-Q8_0.gguf": "d-Q8_0"}


def test_of_builds_of_similar_size_the_one_with_the_shortest_path_is_named_by_its_quantization() -> None:
    plain, calibrated = ("m-Q8_0.gguf", 100 * GB), ("m-imat-Q8_0.gguf", 103 * GB)
    assert names_of(plain, calibrated) == {"m-Q8_0.gguf": "Q8_0", "m-imat-Q8_0.gguf": "m-imat-Q8_0"}


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a--b.gguf", "a-b"),
        ("a..b.gguf", "a.b"),
        ("Modèle v2 (final).gguf", "Mod-le-v2-final"),
        ("a+b.gguf", "a-b"),
        ("-lead.gguf", "lead"),
    ],
)
def test_an_unsafe_path_becomes_a_safe_name(path: str, name: str) -> None:
    assert names_of(path) == {path: name}


@pytest.mark.parametrize("path", ["a" * 80 + ".gguf", "auto.gguf", "LATEST.gguf", "模型.gguf", "default.gguf"])
def test_a_long_reserved_or_empty_name_gets_eight_digits_of_the_path_s_sha256(path: str) -> None:
    (name,) = names_of(path).values()
    assert parse_variant(name) == name
    assert len(name) <= VARIANT_MAX_BYTES
    assert int(name[-8:], 16) >= 0
    assert name[-9] == "-"


def test_paths_that_differ_in_case_or_in_unsafe_characters_get_different_names() -> None:
    found = names_of("Model.gguf", "model.gguf", "a b.gguf", "a-b.gguf")
    assert len({name.casefold() for name in found.values()}) == 4


parts = st.text("aAbQ8_0KM4.- é", min_size=1, max_size=12)
paths = st.lists(parts, min_size=1, max_size=3).map(lambda found: "/".join(found) + ".gguf")
listings = st.lists(st.tuples(paths, st.integers(1, 10**10)), min_size=1, max_size=8, unique_by=lambda file: file[0])


@given(listings, st.integers(0, 2**32))
def test_names_are_valid_unique_and_do_not_depend_on_the_order(files: list[tuple[str, int]], seed: int) -> None:
    names = named(group_shards(files))
    assert all(parse_variant(name) == name for name in names.values())
    assert len({name.casefold() for name in names.values()}) == len(names)
    shuffled = files.copy()
    random.Random(seed).shuffle(shuffled)
    assert named(group_shards(shuffled)) == names


@given(listings)
def test_every_name_is_matched_in_any_case(files: list[tuple[str, int]]) -> None:
    sets = group_shards(files)
    names = named(sets)
    for one, name in names.items():
        assert find_variant(survey_names(sets), names, name.swapcase())[0] == [one]
        assert match_models(names, name) == [one]


def test_an_empty_text_matches_no_model() -> None:
    assert match_models(named(group_shards([("model.gguf", GB)])), "") == []


def test_a_variant_with_another_projector_than_the_default_contains_the_projectors_name() -> None:
    sets = group_shards([("m-Q8_0.gguf", GB), ("mmproj-F16.gguf", GB), ("mmproj-F32.gguf", GB)])
    names = named(sets)
    for text, projector in (("Q8_0-mmproj", "mmproj-F16.gguf"), ("Q8_0-mmproj-F32", "mmproj-F32.gguf")):
        found, beside = find_variant(survey_names(sets), names, text)
        assert [one.first for one in found] == ["m-Q8_0.gguf"]
        assert beside is not None
        assert beside.first == projector
    assert not RESERVED_VARIANTS & {name.casefold() for name in names.values()}


def test_another_projector_with_the_name_of_the_default_one_gets_a_variant_of_its_own() -> None:
    sets = group_shards(
        [("m-Q8_0.gguf", GB), ("mmproj.gguf", GB), ("mmproj-F16.gguf", GB), ("old/mmproj-F16.gguf", GB)]
    )
    names = named(sets)
    (model,) = names
    default = next(one for one in sets if one.first == "mmproj-F16.gguf")
    found = {
        one.first: variant_with_projector(names[model], one, is_default=one == default)
        for one in sets
        if one.is_projector
    }
    assert found["mmproj-F16.gguf"] == "Q8_0-mmproj"
    assert found["old/mmproj-F16.gguf"] == "Q8_0-old-mmproj-F16"
    assert re.fullmatch(r"Q8_0-mmproj-[0-9a-f]{8}", found["mmproj.gguf"])
    for path, name in found.items():
        [one], projector = find_variant(survey_names(sets), names, name)
        assert (one, projector.first if projector else None) == (model, path)


def test_an_incomplete_model_never_takes_the_name_of_a_complete_one() -> None:
    torn = ["m-Q8_0-00001-of-00003.gguf", "m-Q8_0-00003-of-00003.gguf"]
    assert names_of(*torn, "whole/m-Q8_0.gguf") == {torn[0]: "m-Q8_0", "whole/m-Q8_0.gguf": "Q8_0"}
    assert names_of(*torn) == {torn[0]: "Q8_0"}


@pytest.mark.parametrize("suffix", [".gguf", ".GGUF"], ids=["as it is", "in upper case"])
def test_a_file_named_like_another_variant_gets_a_different_name(suffix: str) -> None:
    long = "a" * 70 + ".gguf"
    (name,) = names_of(long).values()
    planted = f"{name.upper() if suffix.isupper() else name}{suffix}"
    found = names_of(long, planted)
    assert found[planted].casefold() == name
    assert len({other.casefold() for other in found.values()}) == 2
    assert all(parse_variant(other) == other for other in found.values())


def test_published_names_are_kept_and_not_given_to_other_models() -> None:
    sets = group_shards([("m-Q8_0.gguf", GB), ("m-Q4_K_M.gguf", GB), ("old/m-Q8_0.gguf", GB)])
    names = named(sets, {"old/m-Q8_0.gguf": Variant("Q8_0")})
    found = {one.first: name for one, name in names.items()}
    assert found["old/m-Q8_0.gguf"] == "Q8_0"
    assert found["m-Q4_K_M.gguf"] == "Q4_K_M"
    assert len({name.casefold() for name in found.values()}) == 3
