from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from paddock.errors import MalformedGguf, NoGguf, NoSuchFile
from paddock.validation.configuration import get_model_config
from tests.support import gguf as g
from tests.support.gguf import tiny_llama

KEYS = {"max_position_embeddings", "model_max_length", "vocab_size", "hidden_size", "model_type", "architectures"}
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "max_position_embeddings": 8192,
    "vocab_size": 49152,
    "hidden_size": 576,
}


def write(directory: Path, config: object = None, tokenizer: object = None) -> Path:
    if config is not None:
        (directory / "config.json").write_text(json.dumps(config))
    if tokenizer is not None:
        (directory / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return directory


def test_the_configuration_is_that_of_the_two_files(tmp_path: Path) -> None:
    assert get_model_config(write(tmp_path, LLAMA, {"model_max_length": 2048})) == {**LLAMA, "model_max_length": 2048}


def test_values_missing_from_the_files_come_from_the_gguf(tmp_path: Path) -> None:
    tiny_llama().write(tmp_path / "tiny-Q8_0.gguf")
    expected = {
        "max_position_embeddings": 256,
        "model_max_length": 256,
        "vocab_size": 260,
        "hidden_size": 32,
        "model_type": "llama",
        "architectures": None,
    }
    assert get_model_config(tmp_path) == expected
    assert get_model_config(tmp_path / "tiny-Q8_0.gguf") == expected
    write(tmp_path, {"model_type": "smollm", "hidden_size": 64})
    assert get_model_config(tmp_path) == {**expected, "model_type": "smollm", "hidden_size": 64}


@pytest.mark.parametrize(
    ("config", "key", "expected"),
    [
        ({"n_positions": 1024}, "max_position_embeddings", 1024),
        ({"n_embd": 768}, "hidden_size", 768),
        ({"d_model": 512}, "hidden_size", 512),
        ({"max_seq_len": 2048}, "max_position_embeddings", 2048),
        ({"text_config": {"vocab_size": 7, "hidden_size": 8}}, "vocab_size", 7),
        ({"vocab_size": 9, "text_config": {"vocab_size": 7}}, "vocab_size", 9),
        ({"text_config": []}, "vocab_size", None),
        ({"vocab_size": "49152"}, "vocab_size", None),
        ({"vocab_size": -1}, "vocab_size", None),
        ({"vocab_size": True}, "vocab_size", None),
        ({"vocab_size": 1.5}, "vocab_size", None),
        ({"vocab_size": 32000.0}, "vocab_size", 32000),
        ({"vocab_size": 10**40}, "vocab_size", None),
        ({"vocab_size": float("nan")}, "vocab_size", None),
        ({"model_type": 3}, "model_type", None),
        ({"architectures": "Llama"}, "architectures", None),
        ({"architectures": ["A", 3]}, "architectures", ["A"]),
    ],
    ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else "",
)
def test_odd_values_are_converted_or_unknown(
    tmp_path: Path, config: dict[str, Any], key: str, expected: object
) -> None:
    found = get_model_config(write(tmp_path, config))
    assert set(found) == KEYS
    assert found[key] == expected


@pytest.mark.parametrize("length", [1e30, 10**30, 1000000000000000019884624838656, -1, 0])
def test_an_unset_length_becomes_the_number_of_positions(tmp_path: Path, length: float) -> None:
    found = get_model_config(write(tmp_path, LLAMA, {"model_max_length": length}))
    assert found["model_max_length"] == 8192


def test_an_unset_length_is_unknown_without_positions(tmp_path: Path) -> None:
    assert (
        get_model_config(write(tmp_path, {"model_type": "llama"}, {"model_max_length": 1e30}))["model_max_length"]
        is None
    )


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[1]", b"null", b"\xff\xfe", b"[" * 200_000],
    ids=["empty", "torn", "list", "null", "not utf-8", "deep"],
)
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_broken_json_is_ignored_with_a_warning_that_names_the_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, data: bytes
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(NoGguf, match=r"neither a usable config\.json nor a GGUF"):
        get_model_config(tmp_path)
    tiny_llama().write(tmp_path / "tiny-Q8_0.gguf")
    assert get_model_config(tmp_path)["hidden_size"] == 32
    assert {message.partition(": ")[0] for message in caplog.messages} == {f"{tmp_path / name} is ignored"}


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(LLAMA).encode())
    assert get_model_config(tmp_path)["hidden_size"] == 576


def test_a_directory_without_configuration_and_gguf_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(NoGguf, match=str(tmp_path)):
        get_model_config(tmp_path)
    with pytest.raises(NoSuchFile, match="absent"):
        get_model_config(tmp_path / "absent")


def test_a_broken_gguf_is_an_error_if_the_configuration_is_incomplete(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(tiny_llama().to_bytes()[:3000])
    with pytest.raises(MalformedGguf):
        get_model_config(tmp_path)
    assert get_model_config(write(tmp_path, LLAMA))["vocab_size"] == 49152


def test_the_keys_for_compatibility_are_included(tmp_path: Path) -> None:
    config = {"model_type": "phi", "auto_map": {"AutoModel": "modeling_x.X"}, "partial_rotary_factor": 0.5}
    assert set(get_model_config(write(tmp_path, config))) == KEYS | {"auto_map"}


def test_the_gguf_of_a_stablelm_shows_its_version(tmp_path: Path) -> None:
    file = tiny_llama()
    for key in list(file.keys):
        if str(key.name).startswith("llama."):
            key.name = f"stablelm.{str(key.name).removeprefix('llama.')}"
    file.set("general.architecture", g.STRING, "stablelm").set("stablelm.rope.dimension_count", g.U32, 4)
    file.set("stablelm.attention.layer_norm_epsilon", g.F32, 0.5)
    file.write(tmp_path / "m.gguf")
    found = get_model_config(tmp_path)
    assert (found["model_type"], found["partial_rotary_factor"], found["layer_norm_eps"]) == ("stablelm", 0.25, 0.5)
