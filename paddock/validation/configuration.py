"""What a model's own files say of it: `config.json`, `tokenizer_config.json`, and the GGUF's metadata where they are
silent.

These are claims of whoever uploaded the model, read as data: nothing is imported or run for them. Whether the engine
can use the model is `paddock.validation.compatibility`'s to say.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from paddock.errors import CorruptFile, NoGguf, NoPermission, NoSuchFile
from paddock.gguf.reader import Array, FileSource, Header, read_header
from paddock.model.quantization import get_gguf_file_path

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
"""Each key of the result, and the names that the families of models have for it."""
_NESTED: Final = ("text_config", "llm_config", "language_config")
_COMPATIBILITY: Final = ("auto_map", "partial_rotary_factor", "layer_norm_eps", "use_qkv_bias", "rope_parameters")
_MOST: Final = 2**31 - 1  # more is no count; Transformers writes int(1e30) for a length that nobody set
_LARGEST_JSON_BYTES: Final = 64 << 20


def get_model_config(model_path: Path) -> dict:  # type: ignore[type-arg]  # this signature is public and fixed
    """The model's configuration, from a directory or one GGUF.

    Keys, each None where no file says it: `max_position_embeddings`, `model_max_length`, `vocab_size`, `hidden_size`
    (int), `model_type` (str), `architectures` (list of str). Of a model with several parts the text part counts. A
    `model_max_length` that is no length (Transformers writes 1e30 for "not set") becomes `max_position_embeddings`.
    Where they are there, `auto_map` and what tells the forms of StableLM apart come along, since compatibility is
    judged by them.

    Raises NoSuchFile without a directory, NoGguf where it holds neither configuration nor GGUF, CorruptFile for broken
    JSON, and MalformedGguf or NotGguf for a broken GGUF that had to be asked.
    """
    directory = model_path if model_path.is_dir() else model_path.parent
    alone = model_path.is_file()
    if not alone and not model_path.is_dir():
        raise NoSuchFile(f"there is no model at {model_path}", cure="give a model's directory, or a .gguf file")
    config = {} if alone else _read_json(directory / "config.json")
    tokenizer = {} if alone else _read_json(directory / "tokenizer_config.json")
    found = _from_config(config)
    found["model_max_length"] = _integer(tokenizer.get("model_max_length"), "model_max_length")
    missing = any(found[key] is None for key in ("max_position_embeddings", "vocab_size", "hidden_size", "model_type"))
    if missing:
        header = _header(model_path, needed=not config and not tokenizer)
        if header is not None:
            found = _merged(found, _from_header(header))
    if found["model_max_length"] is None:
        found["model_max_length"] = found["max_position_embeddings"]
    return found


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is no file."""
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_JSON_BYTES + 1)
    except FileNotFoundError:
        return {}
    except PermissionError:
        raise NoPermission(f"{path} may not be read", cure="correct its permissions") from None
    except OSError as error:
        raise CorruptFile(f"{path} cannot be read: {error.strerror}", cure="pull the model again") from None
    problem = f"it is longer than {_LARGEST_JSON_BYTES} bytes"
    if len(data) <= _LARGEST_JSON_BYTES:
        try:
            value = json.loads(data.decode("utf-8-sig"))
        except json.JSONDecodeError as error:
            problem = f"{error.msg} at line {error.lineno}, column {error.colno}"
        except (ValueError, RecursionError) as error:  # not UTF-8, a number of thousands of digits, nested without end
            problem = "it is nested too deep" if isinstance(error, RecursionError) else str(error)[:120]
        else:
            if isinstance(value, dict):
                return value
            problem = f"an object is expected, and it holds {type(value).__name__}"
    raise CorruptFile(f"{path} is no valid configuration: {problem}", cure="pull the model again, or correct the file")


def _from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    parts = [config, *(part for name in _NESTED if isinstance(part := config.get(name), dict))]
    found: dict[str, Any] = {"model_max_length": None}
    for key, names in _INTEGERS.items():
        found[key] = _first_integer(parts, names)
    model_type = config.get("model_type")
    found["model_type"] = model_type if isinstance(model_type, str) and model_type else None
    classes = config.get("architectures")
    found["architectures"] = [one for one in classes if isinstance(one, str)] if isinstance(classes, list) else None
    found.update({key: config[key] for key in _COMPATIBILITY if config.get(key) is not None and _matters(key, config)})
    return found


def _matters(key: str, config: Mapping[str, Any]) -> bool:
    return key == "auto_map" or str(config.get("model_type")).startswith("stablelm")


def _first_integer(parts: Iterable[Mapping[str, Any]], names: Iterable[str]) -> int | None:
    for part in parts:
        for name in names:
            value = _integer(part.get(name), name)
            if value is not None:
                return value
    return None


def _integer(value: object, name: str) -> int | None:
    """A count, or None for what cannot be one; that is said in the log, since a file meant something by it."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _MOST or value != int(value):
        _LOG.info("%s is %.40r, which is no count: taken as not set", name, value)
        return None
    return int(value)


def _header(model_path: Path, *, needed: bool) -> Header | None:
    try:
        path = model_path if model_path.is_file() else get_gguf_file_path(model_path)
    except NoGguf as error:
        if needed:
            message = f"{model_path} holds neither config.json nor a GGUF"
            raise NoGguf(message, cure="pull the model, or give its directory") from error
        return None
    with FileSource(path) as source:
        return read_header(source)


def _from_header(header: Header) -> dict[str, Any]:
    start = f"{header.architecture}."
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    count = tokens.count if isinstance(tokens, Array) else header.integer(start + "vocab_size")
    found: dict[str, Any] = {
        "max_position_embeddings": _integer(header.integer(start + "context_length"), "context_length"),
        "model_max_length": None,
        "vocab_size": _integer(count, "vocab_size"),
        "hidden_size": _integer(header.integer(start + "embedding_length"), "embedding_length"),
        "model_type": header.architecture or None,
        "architectures": None,
    }
    if header.architecture == "stablelm":
        heads = header.integer(start + "attention.head_count")
        rotated = header.integer(start + "rope.dimension_count")
        if heads and rotated and found["hidden_size"]:
            found["partial_rotary_factor"] = rotated * heads / found["hidden_size"]
        found["layer_norm_eps"] = header.metadata.get(start + "attention.layer_norm_epsilon")
    return found


def _merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """`first`, with what it does not know from `second`."""
    return {key: value if (value := first.get(key)) is not None else second.get(key) for key in {**first, **second}}
