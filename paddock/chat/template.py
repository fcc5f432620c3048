"""Choose the chat template for a model, and read and write the files that store the choice.

A model may have its own template: `tokenizer.chat_template` in the GGUF, `chat_template.jinja` next to it, or
`chat_template` in `tokenizer_config.json`, in this order of precedence. The first one that is sound (not rejected by
the audit, and able to render a plain conversation) is used; otherwise that of the model's family (`families`).

`choose_chat_format` reads a directory and chooses; `setup_chat_template` also writes the template to the directory
unless it is a published snapshot.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

from paddock.chat.audit import NEEDS_MORE, audit_template
from paddock.chat.families import detect_family
from paddock.chat.protocol import MAX_SOURCE_BYTES
from paddock.chat.stops import find_stop_sequences
from paddock.errors import NoGguf, NoPermission, NoSuchFile, NotEnoughDisk
from paddock.gguf import tokenizer
from paddock.gguf.directory import get_gguf_file_path
from paddock.gguf.header import Header
from paddock.gguf.reader import read_header
from paddock.gguf.source import FileSource
from paddock.model import derived_files
from paddock.model.finding import Finding, Severity, Verdict, verdict_of
from paddock.model.json_file import read_json_object
from paddock.model.names import Sha256
from paddock.untrusted.content import UnusableContent
from paddock.untrusted.fields import count_field, text_field
from paddock.untrusted.files import read_head
from paddock.untrusted.json_text import parse_object

TEMPLATE_FILE = derived_files.TEMPLATE_FILE
CHAT_FILE = derived_files.CHAT_FILE
DERIVED_FILES = derived_files.DERIVED_FILES
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
_SCHEMA = 2
_MAX_CHAT_BYTES = 1024 * 1024
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TemplateCandidate:
    """A template of the model itself, where it was read from, and the texts of the begin and end tokens to use with
    it.
    """

    source: str
    origin: str
    bos: str
    eos: str


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """A model's chat format: the Jinja `template`, its `origin` (a file's name, `the GGUF` or `family`), the reason for
    the choice (`why`), the texts of the begin and end tokens, and the `stop` sequences that end an answer.
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
        """Serialize all fields except for the template, which has its own file. The output is deterministic."""
        fields = {key: value for key, value in asdict(self).items() if key != "template"}
        return json.dumps({"schema": _SCHEMA, "template_sha256": self.sha256, **fields}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, template: str) -> ChatFormat:
        """Parse the output of `to_json`. Raises ValueError, KeyError or TypeError for other documents."""
        value = parse_object(text, max_bytes=_MAX_CHAT_BYTES, strict=False)
        stop = tuple(text_field({"stop": sequence}, "stop", max_length=_MAX_CHAT_BYTES) for sequence in value["stop"])
        texts = {name: text_field(value, name, max_length=_MAX_CHAT_BYTES) for name in ("origin", "why", "bos", "eos")}
        return cls(template, stop=stop, **texts)


def _is_sound(findings: Sequence[Finding]) -> bool:
    return verdict_of(findings) is not Verdict.REJECT and not any(finding.rule == NEEDS_MORE for finding in findings)


def setup_chat_template(model_path: Path, model_name: str) -> str:
    """Return the Jinja source of the chat template for the model in a directory.

    In a plain directory, the template is also written to `chat_template.jinja`, atomically. A published snapshot is
    only read. A `tokenizer_config.json` that cannot be used is ignored with a warning. Raises NoSuchFile, NoPermission,
    NotEnoughDisk, and the errors of reading the GGUF.
    """
    if not model_path.is_dir():
        raise NoSuchFile(f"{model_path} is not a directory", cure="pass the directory of a model")
    if is_published(model_path):
        published = _read_text(model_path / TEMPLATE_FILE, max_bytes=MAX_SOURCE_BYTES)
        return published if published is not None else choose_chat_format(model_path, model_name).template
    source = choose_chat_format(model_path, model_name).template
    _, problem = read_json_object(model_path / TOKENIZER_CONFIG_FILE)
    if problem is not None:
        _LOG.warning("%s is ignored: %s", model_path / TOKENIZER_CONFIG_FILE, problem)
    _write_atomically(model_path / TEMPLATE_FILE, source)
    return source


def choose_chat_format(model_path: Path, model_name: str) -> ChatFormat:
    """Choose the chat format for the model in a directory. A `tokenizer_config.json` that cannot be used is ignored.
    Raises the errors of `setup_chat_template`."""
    rejected = ""
    header = _read_gguf_header(model_path)
    config, _ = read_json_object(model_path / TOKENIZER_CONFIG_FILE)
    bos, eos = _special_tokens(header, config)
    for candidate in _candidates(model_path, header, config):
        findings = audit_template(candidate.source, bos=candidate.bos, eos=candidate.eos)
        if _is_sound(findings):
            why = f"the model brings it{rejected}"
            stop = _find_stops(candidate.source, header, candidate.bos, candidate.eos)
            return ChatFormat(candidate.source, candidate.origin, why, candidate.bos, candidate.eos, stop)
        rule = next((finding.rule for finding in findings if finding.severity is Severity.REJECT), NEEDS_MORE)
        rejected += f"; that of {candidate.origin} is passed over for {rule}"
    match = detect_family(
        model_name, architecture=header.architecture if header else None, tokens=_markers(header) if header else ()
    )
    source, why = match.family.source, f"{match.reason}{rejected}"
    return ChatFormat(source, "family", why, bos, eos, _find_stops(source, header, bos, eos))


def chat_format_for_template(template: str, model_path: Path) -> ChatFormat:
    """Return the chat format of the model in a directory for a given template, without an audit: adds the texts of the
    special tokens and the stop sequences. Raises the errors of `setup_chat_template`.
    """
    header = _read_gguf_header(model_path)
    config, _ = read_json_object(model_path / TOKENIZER_CONFIG_FILE)
    bos, eos = _special_tokens(header, config)
    why = "it was published with the model"
    return ChatFormat(template, TEMPLATE_FILE, why, bos, eos, _find_stops(template, header, bos, eos))


def is_complete(text: str) -> bool:
    """Whether the content of a CHAT_FILE has all settings, so that `read_chat_format` reads no other file. Raises as
    that."""
    value = parse_object(text, max_bytes=_MAX_CHAT_BYTES, strict=False)
    return count_field({"schema": 1, **value}, "schema") >= _SCHEMA


def read_chat_format(text: str, template: str, model_path: Path) -> ChatFormat:
    """Read the chat format of the model in a directory from `text`, the content of its CHAT_FILE.

    Older versions of Paddock wrote stop sequences that also stand inside an answer: those are derived anew. Raises
    ValueError, KeyError or TypeError for another content, and the errors of `setup_chat_template`.
    """
    chat = ChatFormat.from_json(text, template)
    if is_complete(text):
        return chat
    return replace(chat, stop=_find_stops(template, _read_gguf_header(model_path), chat.bos, chat.eos))


def _find_stops(template: str, header: Header | None, bos: str, eos: str) -> tuple[str, ...]:
    control = tokenizer.control_tokens(header) if header else frozenset[str]()
    return find_stop_sequences(template, bos=bos, eos=eos, control=control)


def _candidates(model_path: Path, header: Header | None, config: Mapping[str, object]) -> Iterator[TemplateCandidate]:
    """Yield the model's own templates in a directory, in order of precedence."""
    bos, eos = _special_tokens(header, config)
    in_gguf = header.text("tokenizer.chat_template") if header else None
    if in_gguf is not None:
        yield TemplateCandidate(in_gguf, "the GGUF", bos, eos)
    in_file = _read_text(model_path / TEMPLATE_FILE, max_bytes=MAX_SOURCE_BYTES)
    if in_file is not None:
        yield TemplateCandidate(in_file, TEMPLATE_FILE, bos, eos)
    in_config = _default_template(config.get("chat_template"))
    if in_config is not None:
        yield TemplateCandidate(in_config, TOKENIZER_CONFIG_FILE, bos, eos)


def _special_tokens(header: Header | None, config: Mapping[str, object]) -> tuple[str, str]:
    """Return the texts of the begin and end tokens: those of the GGUF, or without one those of `tokenizer_config.json`.
    Empty for a token that the model does not have."""
    if header:
        return tokenizer.special_token(header, "bos"), tokenizer.special_token(header, "eos")
    return _token_text(config.get("bos_token")), _token_text(config.get("eos_token"))


def _read_gguf_header(model_path: Path) -> Header | None:
    try:
        path = get_gguf_file_path(model_path)
    except NoGguf:
        return None
    with FileSource(path) as file:
        return read_header(file)


def _markers(header: Header) -> frozenset[str]:
    """Return the tokens that may be markers of a family: those that begin with `<` or `[`."""
    tokens = header.array("tokenizer.ggml.tokens")
    if tokens is None or tokens.type.name != "STRING":
        return frozenset()
    return frozenset(token.decode(errors="replace") for token in tokens.iter_raw() if token[:1] in {b"<", b"["})


def is_published(model_path: Path) -> bool:
    """Whether a directory is a published snapshot or a link to one, which must not be modified.

    Raises NoPermission if it cannot be read.
    """
    try:
        real = model_path.resolve()
        return (real / "manifest.json").exists() or any(
            (above.parent.name, above.name) == (".paddock", "snapshots") for above in (real, *real.parents)
        )
    except OSError as error:
        raise NoPermission(f"{model_path} cannot be read: {error.strerror}", cure="correct its permissions") from None


def _default_template(value: object) -> str | None:
    """Return the template in `chat_template` of a `tokenizer_config.json`: the string itself, or the entry named
    `default` in a list of `{name, template}`.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        named = {
            entry.get("name"): entry.get("template")
            for entry in value
            if isinstance(entry, dict) and isinstance(entry.get("name"), str)
        }
        template = named.get("default")
        return template if isinstance(template, str) else None
    return None


def _token_text(value: object) -> str:
    """Return a token's text from `tokenizer_config.json`: a string, or an object with the string in `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""


def _read_text(path: Path, *, max_bytes: int) -> str | None:
    """Read the first `max_bytes` + 1 bytes of a text file, so that callers can detect a longer one. Invalid UTF-8
    becomes U+FFFD. Returns None if the file does not exist.
    """
    try:
        return read_head(path, max_bytes=max_bytes + 1, follow=True).decode(errors="replace")
    except UnusableContent as error:
        raise NoSuchFile(f"{path} {error.reason.removeprefix('it ')}", cure="pull the model again") from None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise NoPermission(f"{path} cannot be read: {error.strerror}", cure="correct its permissions") from None


def _write_atomically(path: Path, text: str) -> None:
    """Replace a text file atomically: readers see the old file or the new one, even after a power loss."""
    data = text.encode(errors="surrogatepass")
    if _read_text(path, max_bytes=len(data)) == text and not path.is_symlink():
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
        raise NoPermission(f"no permission to write to {path.parent}", cure="correct its permissions") from None
    except OSError as error:
        raise NotEnoughDisk(f"{path} could not be written: {error.strerror}", cure="free some disk space") from None
    finally:
        staged.unlink(missing_ok=True)
