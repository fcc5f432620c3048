"""The difference of two headers, as a person reads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from paddock.gguf.difference import ChangeKind, HeaderDifference, compare_headers
from paddock.gguf.header import Header
from paddock.gguf.reader import FileSource, read_header
from tests.support.gguf import ARRAY, CHATML, F32, STRING, U32, Gguf, TensorRow, array, tiny_llama


def header(directory: Path, file: Gguf) -> Header:
    path = directory / "model.gguf"
    path.write_bytes(file.to_bytes())
    with FileSource(path) as source:
        return read_header(source)


def difference(directory: Path, change: Callable[[Gguf], object]) -> HeaderDifference:
    file = tiny_llama()
    change(file)
    return compare_headers(header(directory, tiny_llama()), header(directory, file))


@pytest.mark.parametrize(
    ("change", "kind", "lines"),
    [
        pytest.param(lambda file: file.tensors.reverse(), "nothing", [], id="another order of tensors"),
        pytest.param(lambda file: file.keys.reverse(), "nothing", [], id="another order of keys"),
        pytest.param(
            lambda file: file.set("tokenizer.chat_template", STRING, CHATML + "\n{# fixed \x1b[0m #}"),
            "template",
            [
                "--- tokenizer.chat_template before",
                "+++ tokenizer.chat_template after",
                "@@ -1 +1,2 @@",
                f" {CHATML}",
                "'+{# fixed \\x1b[0m #}'",
            ],
            id="a template",
        ),
        pytest.param(
            lambda file: file.set("llama.rope.freq_base", F32, 100000.0),
            "metadata",
            ["llama.rope.freq_base: 10000.0 -> 100000.0"],
            id="a number",
        ),
        pytest.param(
            lambda file: file.set("llama.context_length", F32, 256.0),
            "metadata",
            ["llama.context_length: 256 -> 256.0"],
            id="a type",
        ),
        pytest.param(
            lambda file: file.set("general.tags", ARRAY, array(STRING, ["a", "b"])),
            "metadata",
            ["general.tags is new: 2 string values"],
            id="a new key",
        ),
        pytest.param(
            lambda file: file.set("tokenizer.ggml.bos_token_id", U32, 2),
            "metadata",
            ["tokenizer.ggml.bos_token_id: 1 -> 2"],
            id="the tokenizer",
        ),
        pytest.param(
            lambda file: file.tensors.append(TensorRow("rope_freqs.weight", (8,))),
            "tensors",
            ["tensor rope_freqs.weight is new: F32 8"],
            id="a new tensor",
        ),
    ],
)
def test_a_difference_names_what_changed(
    tmp_path: Path, change: Callable[[Gguf], object], kind: str, lines: list[str]
) -> None:
    found = difference(tmp_path, change)
    assert found.kind is ChangeKind(kind)
    assert list(found.lines()) == lines
    assert found.tokenizer is any("bos_token" in line for line in lines)
