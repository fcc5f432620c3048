"""Which chat template a model is used with, and the files that say so.

A model may bring *its own*: `tokenizer.chat_template` in the GGUF, `chat_template.jinja` beside it, or `chat_template`
in `tokenizer_config.json`, in this order. The first that is sound (not rejected by the audit, and able to render a
plain conversation) is used, else its *family's* (`families`).

`chat_of` reads a directory and decides; `setup_chat_template` also writes to it where that is allowed.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

from paddock.chat.audit import NEEDS_MORE, audit_template
from paddock.chat.families import tell_family
from paddock.chat.protocol import SOURCE_BYTES
from paddock.chat.stops import stops_of
from paddock.errors import CorruptFile, NoGguf, NoPermission, NoSuchFile, NotEnoughDisk
from paddock.gguf.header import Array, Header, Value
from paddock.gguf.reader import read_header
from paddock.gguf.source import FileSource
from paddock.model.finding import Finding, Severity, Verdict, verdict_of
from paddock.model.names import Sha256
from paddock.model.quantization import get_gguf_file_path

TEMPLATE_FILE = "chat_template.jinja"
CHAT_FILE = "chat.paddock.json"
"""What the engine needs beside the template: its stop sequences and the texts of its special tokens."""
DERIVED = frozenset({TEMPLATE_FILE, CHAT_FILE})
"""What a snapshot holds beside the repository's own files."""
_CONFIG_FILE = "tokenizer_config.json"
_CONFIG_BYTES = 64 * 1024 * 1024
_BOS, _EOS = "<s>", "</s>"


@dataclass(frozen=True, slots=True)
class OwnTemplate:
    """A template that a model brings, the place it was read from, and the texts of the model's begin and end tokens."""

    source: str
    place: str
    bos: str
    eos: str


@dataclass(frozen=True, slots=True)
class Chat:
    """How a model is spoken with: the Jinja `template`, where it is from (`origin`: a file's name, or `family`), `why`,
    the texts of its begin and end tokens, and the `stop` sequences that end an answer.
    """

    template: str
    origin: str
    why: str
    bos: str
    eos: str
    stop: tuple[str, ...]

    @property
    def sha256(self) -> Sha256:
        return Sha256(sha256(self.template.encode(errors="surrogatepass")).hexdigest())

    def to_json(self) -> str:
        """Everything but the template itself, which has a file of its own. The same for the same model."""
        value = {key: one for key, one in asdict(self).items() if key != "template"}
        return json.dumps({"schema": 1, "template_sha256": self.sha256, **value}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, template: str) -> Chat:
        """The inverse of `to_json`, for documents of our own."""
        value = json.loads(text)
        stop = tuple(value.pop("stop"))
        return cls(template, stop=stop, **{key: value[key] for key in ("origin", "why", "bos", "eos")})


def _is_sound(findings: Sequence[Finding]) -> bool:
    return verdict_of(findings) is not Verdict.REJECT and not any(one.rule == NEEDS_MORE for one in findings)


def setup_chat_template(model_path: Path, model_name: str) -> str:
    """The Jinja source of the chat template for the model in a directory.

    In a plain directory it also becomes that directory's `chat_template.jinja`, atomically. A published snapshot is
    only read. Raises NoSuchFile, NoPermission, NotEnoughDisk, CorruptFile (a `tokenizer_config.json`
    that is none), and what reading the GGUF raises.
    """
    if not model_path.is_dir():
        raise NoSuchFile(f"{model_path} is not a directory", cure="give the directory of a model")
    if is_published(model_path):
        written = _read(model_path / TEMPLATE_FILE, at_most=SOURCE_BYTES)
        return written if written is not None else chat_of(model_path, model_name).template
    source = chat_of(model_path, model_name).template
    _write(model_path / TEMPLATE_FILE, source)
    return source


def chat_of(model_path: Path, model_name: str) -> Chat:
    """How the model in a directory is spoken with: the same whenever it is asked. Raises as `setup_chat_template`."""
    passed_over = ""
    header, config = _header(model_path), _config(model_path / _CONFIG_FILE)
    bos, eos = _tokens(header, config)
    for own in _own_templates(model_path, header, config):
        findings = audit_template(own.source, bos=own.bos, eos=own.eos)
        if _is_sound(findings):
            why = f"the model brings it{passed_over}"
            stop = stops_of(own.source, bos=own.bos, eos=own.eos)
            return Chat(own.source, own.place, why, own.bos, own.eos, stop)
        rule = next((one.rule for one in findings if one.severity is Severity.REJECT), NEEDS_MORE)
        passed_over += f"; that of {own.place} is passed over for {rule}"
    told = tell_family(
        model_name, architecture=header.architecture if header else None, tokens=_vocabulary(header) if header else ()
    )
    source = told.family.source
    return Chat(source, "family", f"{told.why}{passed_over}", bos, eos, stops_of(source, bos=bos, eos=eos))


def chat_with(template: str, model_path: Path) -> Chat:
    """How a model is spoken with by a template that is settled: with the texts of its tokens, and what ends an answer.
    Raises as `setup_chat_template`."""
    bos, eos = _tokens(_header(model_path), _config(model_path / _CONFIG_FILE))
    why = "it was published with the model"
    return Chat(template, TEMPLATE_FILE, why, bos, eos, stops_of(template, bos=bos, eos=eos))


def _own_templates(model_path: Path, header: Header | None, config: Mapping[str, object]) -> Iterator[OwnTemplate]:
    """The templates that the files in a directory bring, in the order of preference."""
    bos, eos = _tokens(header, config)
    template = header.text("tokenizer.chat_template") if header else None
    if template is not None:
        yield OwnTemplate(template, "the GGUF", bos, eos)
    written = _read(model_path / TEMPLATE_FILE, at_most=SOURCE_BYTES)
    if written is not None:
        yield OwnTemplate(written, TEMPLATE_FILE, bos, eos)
    configured = _default_of(config.get("chat_template"))
    if configured is not None:
        bos, eos = _token(config.get("bos_token"), bos), _token(config.get("eos_token"), eos)
        yield OwnTemplate(configured, _CONFIG_FILE, bos, eos)


def _tokens(header: Header | None, config: Mapping[str, object]) -> tuple[str, str]:
    """The texts of the begin and the end token: the GGUF's, else the configuration's, else the usual ones."""
    bos, eos = _token(config.get("bos_token"), _BOS), _token(config.get("eos_token"), _EOS)
    if header:
        bos, eos = _gguf_token(header.metadata, "bos", bos), _gguf_token(header.metadata, "eos", eos)
    return bos, eos


def _header(model_path: Path) -> Header | None:
    try:
        path = get_gguf_file_path(model_path)
    except NoGguf:
        return None
    with FileSource(path) as file:
        return read_header(file)


def _vocabulary(header: Header) -> frozenset[str]:
    """The tokens that look like marks: the others tell no family."""
    tokens = header.array("tokenizer.ggml.tokens")
    if tokens is None or tokens.type.name != "STRING":
        return frozenset()
    return frozenset(token.decode(errors="replace") for token in tokens.iter_raw() if token[:1] in {b"<", b"["})


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
