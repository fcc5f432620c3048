from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from paddock.errors import MissingShard, NoGguf, NoSuchFile
from paddock.gguf.directory import get_gguf_file_path
from paddock.model.quantization import (
    PREFERRED,
    group_shards,
    quantization_of,
    rank_models,
    split_count,
)


def make(directory: Path, sizes: dict[str, int]) -> Path:
    for name, size in sizes.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(size))
    return directory


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("Model-7B.Q4_K_M.gguf", "Q4_K_M"),
        ("model-q8_0.gguf", "Q8_0"),
        ("Model-UD-Q8_K_XL.gguf", "UD-Q8_K_XL"),
        ("model.i1-IQ2_XXS.gguf", "IQ2_XXS"),
        ("model-fp16.gguf", "F16"),
        ("model-BF16-00001-of-00004.gguf", "BF16"),
        ("F16-to-Q6_K.gguf", "Q6_K"),
        ("gpt-oss-20b-MXFP4_MOE.gguf", "MXFP4_MOE"),
        ("Q8_0/model-00001-of-00002.gguf", "Q8_0"),
        ("Q8_0/model-Q4_K_M.gguf", "Q4_K_M"),
        ("a/Q8_0/b/model.gguf", None),
        ("model-Q4_0_4_4.gguf", None),
        ("modelQ4_K_Mx.gguf", None),
        ("model.gguf", None),
    ],
)
def test_a_name_states_its_quantization(path: str, expected: str | None) -> None:
    assert quantization_of(path) == expected


def test_each_preferred_quantization_ranks_before_the_next_and_before_larger_others(tmp_path: Path) -> None:
    for better, worse in pairwise(PREFERRED):
        sets = group_shards([(f"m-{better}.gguf", 1), (f"m-{worse}.gguf", 5), ("m-F16.gguf", 100)])
        assert rank_models(sets)[0].quantization == better


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({"m.Q4_K_M.gguf": 5, "m.Q8_0.gguf": 8, "m.F16.gguf": 16}, "m.Q8_0.gguf"),
        ({"m.Q2_K.gguf": 2, "m.IQ4_XS.gguf": 4}, "m.IQ4_XS.gguf"),
        ({"m.q8_0.GGUF": 8, "m.Q6_K.gguf": 6}, "m.q8_0.GGUF"),
        ({"m-UD-Q8_K_XL.gguf": 9, "m-Q4_K_S.gguf": 4}, "m-Q4_K_S.gguf"),
        ({"mmproj-m-Q8_0.gguf": 8, "m-Q4_K_S.gguf": 4}, "m-Q4_K_S.gguf"),
        ({"m-Q4_K_S.gguf": 4, "deep/m-Q8_0.gguf": 8}, "m-Q4_K_S.gguf"),
        (
            {"Q8_0/m-00001-of-00002.gguf": 4, "Q8_0/m-00002-of-00002.gguf": 4, "Q6_K/m.gguf": 6},
            "Q8_0/m-00001-of-00002.gguf",
        ),
        ({"a-00001-of-00002.gguf": 3, "a-00002-of-00002.gguf": 3, "b.gguf": 5}, "a-00001-of-00002.gguf"),
        ({".cache/m-Q8_0.gguf": 8, "m-Q2_K.gguf": 2}, "m-Q2_K.gguf"),
    ],
    ids=[
        "preference",
        "largest of the others",
        "case",
        "dynamic",
        "projector",
        "top first",
        "by directory",
        "sum",
        "hidden",
    ],
)
def test_the_best_file_of_a_directory_is_found(tmp_path: Path, sizes: dict[str, int], expected: str) -> None:
    assert get_gguf_file_path(make(tmp_path, sizes)) == tmp_path / expected


def test_a_directory_without_a_gguf_is_named_with_what_it_has(tmp_path: Path) -> None:
    make(tmp_path, {"model.safetensors": 1, "mmproj.gguf": 1})
    with pytest.raises(NoGguf, match=r"\.safetensors") as caught:
        get_gguf_file_path(tmp_path)
    assert isinstance(caught.value, FileNotFoundError)
    assert str(tmp_path) in str(caught.value)


def test_a_missing_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NoSuchFile):
        get_gguf_file_path(tmp_path / "absent")


def test_a_best_model_with_a_shard_missing_is_an_error_that_names_it(tmp_path: Path) -> None:
    make(tmp_path, {"m-Q8_0-00002-of-00003.gguf": 1, "m-Q8_0-00003-of-00003.gguf": 1, "m-Q6_K.gguf": 9})
    with pytest.raises(MissingShard, match="m-Q8_0-00001-of-00003"):
        get_gguf_file_path(tmp_path)


def test_shards_whose_stems_differ_in_case_are_two_models() -> None:
    sets = group_shards([("A-00001-of-00002.gguf", 1), ("a-00002-of-00002.gguf", 1)])
    assert [one.missing for one in sets] == [("A-00002-of-00002.gguf",), ("a-00001-of-00002.gguf",)]
    assert split_count("A-00001-of-00002.gguf") == 2
    assert split_count("a.gguf") == 1
