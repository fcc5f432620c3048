"""Read a model's configuration from `config.json` and `tokenizer_config.json`, with GGUF metadata as the fallback.

The files are untrusted data from the uploader: nothing is imported or executed because of them. Whether the engine
supports the model is decided in `paddock.validation.compatibility`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from paddock.errors import NoGguf, NoSuchFile
from paddock.gguf.directory import get_gguf_file_path
from paddock.gguf.reader import Array, FileSource, Header, read_header
from paddock.model.json_file import read_json_object
from paddock.validation.companions import CONFIG_FILES

_LOG = logging.getLogger(__name__)

_INTEGERS: Final = {
    "max_position_embeddings": (
        "max_position_embeddings",
        "n_positions",
        "max_seq_len",
        "max_sequence_length",
        "seq_length",
    ),
    "vocab_size": ("vocab_size", "padded_vocab_size"),
    "hidden_size": ("hidden_size", "n_embd", "d_model", "dim"),
}
"""The names that different model families use for each key of the result."""
_TEXT_CONFIGS: Final = ("text_config", "llm_config", "language_config")
_COMPATIBILITY_KEYS: Final = ("auto_map", "partial_rotary_factor", "layer_norm_eps", "use_qkv_bias", "rope_parameters")
_MAX_COUNT: Final = 2**31 - 1  # Transformers writes int(1e30) for a length that is not set


def get_model_config(model_path: Path) -> dict:  # type: ignore[type-arg]  # this signature is public and fixed
    """Read the configuration of a model from its directory, or from one GGUF file.

    Keys, each None if no file states it: `max_position_embeddings`, `model_max_length`, `vocab_size`, `hidden_size`
    (int), `model_type` (str), `architectures` (list of str). For a multimodal model they describe the text model. An
    implausible `model_max_length` (Transformers writes 1e30 for "not set") becomes `max_position_embeddings`. If
    present, `auto_map` and the keys that distinguish the versions of StableLM are included, because
    `is_model_supported` needs them. A configuration that cannot be used is ignored with a warning.

    Raises:
        NoSuchFile: `model_path` does not exist.
        NoGguf: The directory has neither a usable configuration nor a GGUF.
        MalformedGguf, NotGguf: The configuration is incomplete, and the GGUF is broken.
    """
    is_file = model_path.is_file()
    if not is_file and not model_path.is_dir():
        raise NoSuchFile(f"there is no model at {model_path}", cure="pass the directory of a model, or a .gguf file")
    config, tokenizer = ({} if is_file else _read(model_path / name) for name in CONFIG_FILES)
    result = _from_config(config)
    result["model_max_length"] = _integer(tokenizer.get("model_max_length"), "model_max_length")
    missing = any(result[key] is None for key in ("max_position_embeddings", "vocab_size", "hidden_size", "model_type"))
    if missing:
        header = _header(model_path, required=not config and not tokenizer)
        if header is not None:
            result = _merged(result, _from_header(header))
    if result["model_max_length"] is None:
        result["model_max_length"] = result["max_position_embeddings"]
    return result


def _read(path: Path) -> dict[str, Any]:
    """The object in a configuration file; empty for one that does not exist, or that cannot be used."""
    config, problem = read_json_object(path)
    if problem is not None:
        _LOG.warning("%s is ignored: %s", path, problem)
    return config


def _from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    parts = [config, *(part for name in _TEXT_CONFIGS if isinstance(part := config.get(name), dict))]
    found: dict[str, Any] = {"model_max_length": None}
    for key, names in _INTEGERS.items():
        found[key] = _first_integer(parts, names)
    model_type = config.get("model_type")
    found["model_type"] = model_type if isinstance(model_type, str) and model_type else None
    classes = config.get("architectures")
    found["architectures"] = [name for name in classes if isinstance(name, str)] if isinstance(classes, list) else None
    found.update(
        {
            key: config[key]
            for key in _COMPATIBILITY_KEYS
            if config.get(key) is not None and _affects_compatibility(key, config)
        }
    )
    return found


def _affects_compatibility(key: str, config: Mapping[str, Any]) -> bool:
    return key == "auto_map" or str(config.get("model_type")).startswith("stablelm")


def _first_integer(parts: Iterable[Mapping[str, Any]], names: Iterable[str]) -> int | None:
    for part in parts:
        for name in names:
            value = _integer(part.get(name), name)
            if value is not None:
                return value
    return None


def _integer(value: object, name: str) -> int | None:
    """A positive integer up to 2**31 - 1, or None for any other value, which is logged."""
    if value is None:
        return None
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not 0 < value <= _MAX_COUNT
        or value != int(value)
    ):
        _LOG.info("%s is %.40r, which is not a valid count: treated as not set", name, value)
        return None
    return int(value)


def _header(model_path: Path, *, required: bool) -> Header | None:
    try:
        path = model_path if model_path.is_file() else get_gguf_file_path(model_path)
    except NoGguf as error:
        if required:
            message = f"{model_path} contains neither a usable config.json nor a GGUF"
            raise NoGguf(message, cure="pull the model, or pass its directory") from error
        return None
    with FileSource(path) as source:
        return read_header(source)


def _from_header(header: Header) -> dict[str, Any]:
    prefix = f"{header.architecture}."
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    count = tokens.count if isinstance(tokens, Array) else header.integer(prefix + "vocab_size")
    found: dict[str, Any] = {
        "max_position_embeddings": _integer(header.integer(prefix + "context_length"), "context_length"),
        "model_max_length": None,
        "vocab_size": _integer(count, "vocab_size"),
        "hidden_size": _integer(header.integer(prefix + "embedding_length"), "embedding_length"),
        "model_type": header.architecture or None,
        "architectures": None,
    }
    if header.architecture == "stablelm":
        heads = header.integer(prefix + "attention.head_count")
        rotated = header.integer(prefix + "rope.dimension_count")
        if heads and rotated and found["hidden_size"]:
            found["partial_rotary_factor"] = rotated * heads / found["hidden_size"]
        found["layer_norm_eps"] = header.metadata.get(prefix + "attention.layer_norm_epsilon")
    return found


def _merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """`first`, with missing values from `second`."""
    return {key: value if (value := first.get(key)) is not None else second.get(key) for key in {**first, **second}}
