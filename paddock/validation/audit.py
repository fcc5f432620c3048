"""Audit a GGUF: check its format, model, tokenizer, shards and chat templates, and combine the findings to a verdict.

An *audit* reads only headers, from a local file or through range requests. Violations of the format become findings.
Exceptions are raised only for problems outside of the file, such as a failing network or a missing engine. Tensor data
is read on request (`deep`). Digests are not checked here but in `paddock.validation.integrity`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import PurePosixPath
from time import perf_counter
from typing import Any, Final

from paddock.errors import MalformedGguf, NotGguf
from paddock.gguf import rules, split, tokenizer
from paddock.gguf.format import ValueType, file_type_name
from paddock.gguf.kind import ModelKind, kind_of
from paddock.gguf.reader import Array, ByteSource, Header, Tensor, read_header
from paddock.model import quantization
from paddock.model.finding import Finding, Severity, Verdict, verdict_of
from paddock.model.names import Sha256
from paddock.timings import phase

TEMPLATE: Final = "tokenizer.chat_template"
_MAX_TEMPLATES: Final = 16
_NO_TURN_MARKERS: Final = frozenset({"<|endoftext|>", "<|startoftext|>", "<|padding|>", "<|pad|>", "<|unk|>"})
_CONTROL_MARKER: Final = re.compile(r"<[|｜][^<>\s|｜]{1,60}[|｜]>")

KnowsArchitecture = Callable[[str], bool]
"""Whether the engine supports a value of `general.architecture`."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Facts about the model from the header; None if the header does not state them.

    `parameters` is the number of weights, `context_length` is in tokens, and `size_bytes` is the sum over all shards.
    """

    kind: ModelKind
    architecture: str | None
    parameters: int
    quantization: str | None
    context_length: int | None
    vocab_size: int | None
    block_count: int | None
    size_bytes: int
    shards: int

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ModelFacts:
        """The inverse of `asdict`; a document without a kind is of a language model."""
        return cls(**{**value, "kind": ModelKind(value.get("kind", ModelKind.TEXT))})


@dataclass(frozen=True, slots=True)
class TemplateFacts:
    """The default chat template of the GGUF.

    `sha256` is the digest of its UTF-8 source, and `source` its metadata key. A template with the `verdict` reject is
    never rendered for a user: another one is used instead.
    """

    present: bool
    sha256: Sha256 | None
    verdict: Verdict | None
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Audit:
    """The result of an audit.

    `model` is None if a header could not be read. `bytes_read` and `seconds` are the cost of the audit. `licence` is
    the one that the file states; the Hub's model card takes precedence.
    """

    verdict: Verdict
    findings: tuple[Finding, ...]
    model: ModelFacts | None
    template: TemplateFacts
    bytes_read: int
    seconds: float
    licence: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "verdict": str(self.verdict),
            "findings": [finding.to_json() for finding in self.findings],
            "model": asdict(self.model) if self.model else None,
            "template": asdict(self.template),
            "bytes_read": self.bytes_read,
            "seconds": round(self.seconds, 6),
            "licence": self.licence,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Audit:
        """The inverse of `to_json`. The document must come from a trusted store."""
        template = value["template"]
        verdict = template["verdict"]
        return cls(
            verdict=Verdict(value["verdict"]),
            findings=tuple(Finding.from_json(finding) for finding in value["findings"]),
            model=ModelFacts.from_json(value["model"]) if value["model"] else None,
            template=TemplateFacts(**{**template, "verdict": Verdict(verdict) if verdict else None}),
            bytes_read=value["bytes_read"],
            seconds=value["seconds"],
            licence=value["licence"],
        )


def audit_file(
    source: ByteSource,
    *,
    name: str,
    size: int | None = None,
    knows_architecture: KnowsArchitecture | None = None,
    deep: bool = False,
) -> Audit:
    """Audit one GGUF file. Of a split model this covers a single shard; use `audit_set` for all.

    Args:
        source: The content of the file.
        name: Its file name, which must match the shard number in its header.
        size: The expected size in bytes, if it is known.
        knows_architecture: Whether the engine supports an architecture. Without it the audit records the finding
            `gguf.model.architecture-not-asked`.
        deep: Whether to read and check all tensor data too.
    """
    return _audit([source], [name], sizes=[size], whole=False, knows_architecture=knows_architecture, deep=deep)


def audit_set(
    sources: Sequence[ByteSource],
    *,
    names: Sequence[str],
    knows_architecture: KnowsArchitecture | None = None,
    deep: bool = False,
) -> Audit:
    """Audit all shards of a model together, in order. A model that is not split is a set of one file.

    `names` has one name for each source. For the other arguments see `audit_file`. Raises ValueError without sources,
    or if the numbers of sources and names differ.
    """
    if not sources or len(sources) != len(names):
        raise ValueError(
            f"{len(sources)} sources and {len(names)} names were given, and one name for each of at least one source is"
            " needed"
        )
    return _audit(
        sources, names, sizes=[None] * len(sources), whole=True, knows_architecture=knows_architecture, deep=deep
    )


def check_projector(source: ByteSource, *, name: str) -> list[Finding]:
    """Check a multimodal projector against the rules of the container. The rules of language models do not apply."""
    return [_located(finding, f"{name}: ") for finding in _read(source, name, None, [], deep=False)]


class _CountingSource:
    """A source that counts the bytes that are read from it."""

    def __init__(self, source: ByteSource) -> None:
        self.source = source
        self.size = source.size
        self.bytes_read = 0

    def read_at(self, offset: int, length: int) -> bytes:
        data = self.source.read_at(offset, length)
        self.bytes_read += len(data)
        return data


def _audit(
    sources: Sequence[ByteSource],
    names: Sequence[str],
    *,
    sizes: Sequence[int | None],
    whole: bool,
    knows_architecture: KnowsArchitecture | None,
    deep: bool,
) -> Audit:
    start = perf_counter()
    counted = [_CountingSource(source) for source in sources]
    findings: list[Finding] = []
    headers: list[Header] = []
    for source, name, size in zip(counted, names, sizes, strict=True):
        prefix = f"{name}: " if len(names) > 1 else ""
        found = _read(source, name, size, headers, deep=deep)
        findings += [_located(finding, prefix) for finding in found]
    template = TemplateFacts(present=False, sha256=None, verdict=None)
    model = None
    if len(headers) == len(sources):
        if whole:
            findings += split.check_set(headers, names)
        findings += _check_model(headers, whole=whole, knows_architecture=knows_architecture)
        model = _model_facts(headers)
        template_findings, template = _check_templates(headers[0], model.kind)
        findings += template_findings
        is_stated = headers[0].integer("general.file_type") is not None
        findings += _check_quantization(names[0], model.quantization, is_stated=is_stated)
    return Audit(
        verdict=verdict_of(findings),
        findings=tuple(findings),
        model=model,
        template=template,
        bytes_read=sum(source.bytes_read for source in counted),
        seconds=perf_counter() - start,
        licence=headers[0].text("general.license") if headers else None,
    )


def _located(finding: Finding, prefix: str) -> Finding:
    return Finding(finding.rule, finding.severity, finding.message, prefix + finding.where, finding.cure)


def _read(source: ByteSource, name: str, size: int | None, headers: list[Header], *, deep: bool) -> list[Finding]:
    """Read one header, append it to `headers`, and return the findings on this file, with `deep` also on its data."""
    findings: list[Finding] = []
    if size is not None and size != source.size:
        message = f"the file has {source.size} bytes, and {size} were expected"
        findings.append(Finding("gguf.container.size", Severity.REJECT, message, name, "download the file again"))
    try:
        header = read_header(source)
    except (NotGguf, MalformedGguf) as breach:
        return [*findings, Finding(breach.rule, Severity.REJECT, breach.message, breach.where, breach.cure)]
    headers.append(header)
    findings += [*rules.check_file(header), *_check_name(header, name)]
    if deep:
        from paddock.gguf import weights

        findings += weights.check(source, header)
    return findings


def _check_name(header: Header, name: str) -> Iterator[Finding]:
    """Check that name and header state the same shard, because the engine finds the other shards by their names."""
    part = split.shard_info(header)
    number, count = quantization.split_number(name), quantization.split_count(name)
    in_header = (part.number + 1, part.count) if part else (1, 1)
    if (number, count) != in_header:
        message = f"the name states shard {number} of {count}, and the header shard {in_header[0]} of {in_header[1]}"
        yield Finding(
            "gguf.split.name",
            Severity.REJECT,
            message,
            PurePosixPath(name).name,
            "restore the original name of the file",
        )


def _check_model(
    headers: Sequence[Header], *, whole: bool, knows_architecture: KnowsArchitecture | None
) -> Iterator[Finding]:
    first = headers[0]
    part = split.shard_info(first)
    if part and not whole:
        message = f"this is shard {part.number + 1} of {part.count}, and the other shards were not audited"
        yield Finding(
            "gguf.split.part", Severity.INFO, message, "split.no", "pass the directory or the repository instead"
        )
    tensors = [tensor for header in headers for tensor in header.tensors] if whole else None
    found = list(rules.check_model(first, all_tensors=tensors))
    yield from found
    if first.architecture and not any(finding.rule.startswith("gguf.model.is-") for finding in found):
        yield from _check_architecture(first.architecture, knows_architecture)


def _check_architecture(architecture: str, knows_architecture: KnowsArchitecture | None) -> Iterator[Finding]:
    key = "general.architecture"
    if knows_architecture is None:
        message = f"no engine was available to check that it supports the architecture {architecture[:60]!r}"
        yield Finding("gguf.model.architecture-not-asked", Severity.INFO, message, key)
    elif not knows_architecture(architecture):
        message = f"the installed engine does not support the architecture {architecture[:60]!r}"
        yield Finding(
            "gguf.model.architecture-unknown", Severity.REJECT, message, key, "install a newer llama-cpp-python"
        )


def _check_templates(header: Header, kind: ModelKind) -> tuple[list[Finding], TemplateFacts]:
    """Audit all chat templates. A rejected one is never used, so that its findings are only warnings of the model. The
    templates of a model without text are never used either, and are not rendered at all."""
    keys = [key for key in header.metadata if key == TEMPLATE or key.startswith(f"{TEMPLATE}.")]
    default = header.text(TEMPLATE)
    if not keys:
        return [], TemplateFacts(present=False, sha256=None, verdict=None)
    findings: list[Finding] = []
    verdict = None
    if kind.is_model and not kind.generates_text:
        message = f"the chat template was not checked, since nobody chats with {kind.noun}: it is never used"
        digest = Sha256(sha256(default.encode()).hexdigest()) if default is not None else None
        unused = Finding("template.unused", Severity.INFO, message, TEMPLATE)
        return [unused], TemplateFacts(digest is not None, digest, None, TEMPLATE if digest else None)
    if len(keys) > _MAX_TEMPLATES:
        # each template is rendered in a process of its own; the file is rejected anyway, so none is rendered
        message = f"the file has {len(keys)} chat templates, and {_MAX_TEMPLATES} at most are allowed"
        findings.append(Finding("template.count", Severity.REJECT, message, TEMPLATE, "use another file"))
        verdict, keys = Verdict.REJECT, []
    for key in keys:
        source = header.text(key)
        if source is None:
            message = f"the chat template at {key[:80]} is of type {header.types[key].name}, not STRING"
            findings.append(Finding("template.type", Severity.REJECT, message, key[:80], "use another file"))
            continue
        name = key.removeprefix(TEMPLATE).removeprefix(".") or "default"
        found = _audit_template(header, source, name=name)
        if key == TEMPLATE:
            found += _check_markers(header, source)
            verdict = verdict_of(found)
        findings += _passed_over(found, name) if verdict_of(found) is Verdict.REJECT else found
    digest = Sha256(sha256(default.encode()).hexdigest()) if default is not None else None
    source = TEMPLATE if default is not None else None
    return findings, TemplateFacts(digest is not None, digest, verdict, source)


def _check_markers(header: Header, source: str) -> Iterator[Finding]:
    """Warn if the vocabulary has control tokens for the turns of a conversation, and the template uses other ones: the
    engine would split those into pieces of text."""
    used = set(_CONTROL_MARKER.findall(source))
    tokens = header.array(f"{tokenizer.PREFIX}tokens")
    if not used or tokens is None or tokens.type is not ValueType.STRING:
        return
    known = {text for token in tokens.iter_raw() if _CONTROL_MARKER.fullmatch(text := token.decode(errors="replace"))}
    if known - _NO_TURN_MARKERS and not used & known:
        message = f"none of the template's markers is a token of the vocabulary, the first is {min(used)[:40]!r}"
        cure = "compare the template with that of the model's publisher"
        yield Finding("template.unknown-marker", Severity.WARN, message, TEMPLATE, cure)


def _passed_over(findings: Sequence[Finding], name: str) -> Iterator[Finding]:
    """The findings of a rejected template as warnings, after one that says what is used instead."""
    rule = next(finding.rule for finding in findings if finding.severity is Severity.REJECT)
    if name == "default":
        message = f"the chat template is rejected by {rule}: another one of the model, or that of its family, is used"
        cure = "none is needed to chat with the model; for its own format use a file with a sound template"
    else:
        message = f"the chat template {name[:40]!r} is rejected by {rule}: it is never used"
        cure = "none is needed"
    yield Finding("template.passed-over", Severity.WARN, message, name, cure)
    for finding in findings:
        is_rejecting = finding.severity is Severity.REJECT
        yield replace(finding, severity=Severity.WARN) if is_rejecting else finding


def _audit_template(header: Header, source: str, *, name: str) -> list[Finding]:
    from paddock.chat.audit import audit_template

    bos, eos = tokenizer.special_token(header, "bos"), tokenizer.special_token(header, "eos")
    with phase("template"):
        return list(audit_template(source, bos=bos, eos=eos, name=name))


def _model_facts(headers: Sequence[Header]) -> ModelFacts:
    first = headers[0]
    tensors = [tensor for header in headers for tensor in header.tensors]
    tokens = first.metadata.get(f"{tokenizer.PREFIX}tokens")
    part = split.shard_info(first)
    file_type = first.integer("general.file_type")
    return ModelFacts(
        kind=kind_of(first, all_tensors=tensors if part is None or len(headers) == part.count else None),
        architecture=first.architecture,
        parameters=sum(tensor.elements for tensor in tensors),
        quantization=(file_type_name(file_type) if file_type is not None else None) or _most_common_type(tensors),
        context_length=first.integer(f"{first.architecture}.context_length"),
        vocab_size=tokens.count if isinstance(tokens, Array) else first.integer(f"{first.architecture}.vocab_size"),
        block_count=first.integer(f"{first.architecture}.block_count"),
        size_bytes=sum(header.size for header in headers),
        shards=part.count if part else 1,
    )


def _most_common_type(tensors: Sequence[Tensor]) -> str | None:
    """The tensor type with most weights, as a guess for a file that does not state its quantization."""
    weights: dict[str, int] = {}
    for tensor in tensors:
        weights[tensor.type.name] = weights.get(tensor.type.name, 0) + tensor.elements
    return max(weights, key=lambda name: weights[name]) if weights else None


def _check_quantization(name: str, found: str | None, *, is_stated: bool) -> Iterator[Finding]:
    """Warn if the name states another quantization than the header; only inform if the header states none, and the
    tensors suggest another."""
    named = quantization.quantization_of(name)
    # dynamic and extended mixes (UD-Q4_K_XL, Q6_K_L) have no `general.file_type` of their own
    if not named or not found or named.startswith("UD-") or named.endswith("L"):
        return
    if not found.startswith(named):  # a prefix is fine: MXFP4 and MXFP4_MOE, Q4_K and Q4_K_M
        message = f"the name states {named}, and the header {found}"
        severity = Severity.WARN if is_stated else Severity.INFO
        cure = "rely on the header: the engine ignores the name"
        yield Finding("gguf.model.quantization-name", severity, message, "general.file_type", cure)
