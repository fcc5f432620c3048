"""Which chat template a model is used with, and the file that says so.

A model may bring *its own*: `chat_template.jinja`, `chat_template` in `tokenizer_config.json`, or
`tokenizer.chat_template` in the GGUF, in this order. The first that is sound (not rejected by the audit, and able to
render a plain conversation) is used, else its *family's*.

`choose_template` decides and touches nothing; `setup_chat_template` reads a directory, and writes to it where that is
allowed.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from uuid import uuid4

from paddock.chat.audit import NEEDS_MORE, audit_template
from paddock.chat.families import family_of
from paddock.chat.protocol import SOURCE_BYTES
from paddock.errors import CorruptFile, NoGguf, NoPermission, NoSuchFile, NotEnoughDisk
from paddock.gguf.header import Array, Value
from paddock.gguf.reader import read_header
from paddock.gguf.source import FileSource
from paddock.model.finding import Finding, Verdict, verdict_of
from paddock.model.quantization import get_gguf_file_path

TEMPLATE_FILE = "chat_template.jinja"
_CONFIG_FILE = "tokenizer_config.json"
_CONFIG_BYTES = 64 * 1024 * 1024
_BOS, _EOS = "<s>", "</s>"


@dataclass(frozen=True, slots=True)
class Chosen:
    """The template to use. `findings` are the audit's of the model's own template, whether it was chosen or not; none
    where it has none.
    """

    source: str
    origin: Literal["own", "family"]
    family: str
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class OwnTemplate:
    """A template that a model brings, the place it was read from, and the texts of the model's begin and end tokens."""

    source: str
    place: str
    bos: str
    eos: str


def choose_template(own: str | None, model_name: str, *, bos: str = _BOS, eos: str = _EOS) -> Chosen:
    """The model's own template where it is sound, else its family's."""
    family = family_of(model_name)
    findings = tuple(audit_template(own, bos=bos, eos=eos)) if own is not None else ()
    sound = verdict_of(findings) is not Verdict.REJECT and not any(finding.rule == NEEDS_MORE for finding in findings)
    if own is not None and sound:
        return Chosen(own, "own", family.name, findings)
    return Chosen(family.source, "family", family.name, findings)


def setup_chat_template(model_path: Path, model_name: str) -> str:
    """The Jinja source of the chat template for the model in a directory.

    In a plain directory it also becomes that directory's `chat_template.jinja`, atomically. A published snapshot is
    only read. Raises NoSuchFile, NoPermission, NotEnoughDisk, CorruptFile (a `tokenizer_config.json`
    that is none), and what reading the GGUF raises.
    """
    if not model_path.is_dir():
        raise NoSuchFile(f"{model_path} is not a directory", cure="give the directory of a model")
    source = _choose(model_path, model_name)
    if not is_published(model_path):
        _write(model_path / TEMPLATE_FILE, source)
    return source


def _choose(model_path: Path, model_name: str) -> str:
    for own in own_templates(model_path):
        chosen = choose_template(own.source, model_name, bos=own.bos, eos=own.eos)
        if chosen.origin == "own":
            return chosen.source
    return choose_template(None, model_name).source


def own_templates(model_path: Path) -> Iterator[OwnTemplate]:
    """The templates that the files in a directory bring, in the order of preference. Each file is read when its turn
    comes.
    """
    config = _config(model_path / _CONFIG_FILE)
    bos, eos = _token(config.get("bos_token"), _BOS), _token(config.get("eos_token"), _EOS)
    written = _read(model_path / TEMPLATE_FILE, at_most=SOURCE_BYTES)
    if written is not None:
        yield OwnTemplate(written, TEMPLATE_FILE, bos, eos)
    configured = _default_of(config.get("chat_template"))
    if configured is not None:
        yield OwnTemplate(configured, _CONFIG_FILE, bos, eos)
    with suppress(NoGguf):
        path = get_gguf_file_path(model_path)
        with FileSource(path) as file:
            metadata = read_header(file).metadata
        template = metadata.get("tokenizer.chat_template")
        if isinstance(template, str):
            yield OwnTemplate(template, path.name, _gguf_token(metadata, "bos", bos), _gguf_token(metadata, "eos", eos))


def is_published(model_path: Path) -> bool:
    """Whether a directory is a published snapshot, or the link that shows one: it is never written again."""
    try:
        real = model_path.resolve()
        return (real / "manifest.json").exists() or any(
            (above.parent.name, above.name) == (".paddock", "snapshots") for above in (real, *real.parents)
        )
    except OSError as error:
        raise NoPermission(f"{model_path} may not be read: {error.strerror}", cure="correct its permissions") from None


def _config(path: Path) -> dict[str, object]:
    text = _read(path, at_most=_CONFIG_BYTES)
    if text is None:
        return {}
    try:
        value = json.loads(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        message = f"{path} is not a JSON object of at most {_CONFIG_BYTES} bytes"
        raise CorruptFile(message, cure="pull the model again, or correct the file")
    return value


def _default_of(value: object) -> str | None:
    """The template of a `tokenizer_config.json`: a text, or the one named `default` in a list of `{name, template}`."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        named = {
            one.get("name"): one.get("template")
            for one in value
            if isinstance(one, dict) and isinstance(one.get("name"), str)
        }
        template = named.get("default")
        return template if isinstance(template, str) else None
    return None


def _token(value: object, otherwise: str) -> str:
    """A token's text: a string, or an object with its `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else otherwise


def _gguf_token(metadata: Mapping[str, Value], which: str, otherwise: str) -> str:
    number, tokens = metadata.get(f"tokenizer.ggml.{which}_token_id"), metadata.get("tokenizer.ggml.tokens")
    if isinstance(number, int) and isinstance(tokens, Array) and 0 <= number < tokens.count:
        return tokens.text(number)
    return otherwise


def _read(path: Path, *, at_most: int) -> str | None:
    """The first `at_most` bytes of a text file and one more, or None where there is no file. What is not UTF-8 becomes
    U+FFFD, and is judged as that.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise NoSuchFile(f"{path} is not a regular file", cure="pull the model again")
        with path.open("rb") as file:
            return file.read(at_most + 1).decode(errors="replace")
    except NoSuchFile:
        raise
    except FileNotFoundError:
        return None
    except OSError as error:
        raise NoPermission(f"{path} cannot be read: {error.strerror}", cure="correct its permissions") from None


def _write(path: Path, text: str) -> None:
    """Put a text in place in one step: a reader sees the old file or the new one, also after a power loss."""
    data = text.encode(errors="surrogatepass")
    if _read(path, at_most=len(data)) == text and not path.is_symlink():
        return
    staged = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with staged.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except PermissionError:
        raise NoPermission(f"{path.parent} may not be written", cure="correct its permissions") from None
    except OSError as error:
        raise NotEnoughDisk(f"{path} could not be written: {error.strerror}", cure="free some space") from None
    finally:
        staged.unlink(missing_ok=True)
