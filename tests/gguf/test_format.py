from __future__ import annotations

import gguf
import pytest

from paddock.gguf.format import GgmlType, file_type_name


def test_block_sizes_match_ggml() -> None:
    theirs = {kind.name: gguf.GGML_QUANT_SIZES[kind] for kind in gguf.GGMLQuantizationType}
    ours = {kind.name: (kind.block_length, kind.block_bytes) for kind in GgmlType}
    theirs["Q8_1"] = (32, 36)  # gguf-py says 40, but ggml-common.h and the engine use 4 + 32
    assert {name: ours[name] for name in theirs} == theirs
    assert {kind.name: int(kind) for kind in GgmlType if kind.name in theirs} == {
        kind.name: int(kind) for kind in gguf.GGMLQuantizationType
    }


def test_file_type_names_match_llama_cpp() -> None:
    for kind in gguf.LlamaFileType:
        name = kind.name.removeprefix("ALL_").removeprefix("MOSTLY_")
        if name != "GUESSED":
            assert file_type_name(int(kind)) == name


@pytest.mark.parametrize(("number", "name"), [(15 + 1024, "Q4_K_M"), (4, None), (9999, None), (-1, None)])
def test_the_guessed_bit_is_ignored_and_unknown_file_types_have_no_name(number: int, name: str | None) -> None:
    assert file_type_name(number) == name
