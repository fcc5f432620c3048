"""Check a snapshot's chat template: render sample conversations, and compare it with the promoted revision's."""

from __future__ import annotations

import difflib
import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass

from paddock.chat.render import render_messages
from paddock.chat.template import (
    CHAT_FILE,
    TEMPLATE_FILE,
    ChatFormat,
    chat_format_for_template,
    choose_chat_format,
    is_complete,
    read_chat_format,
)
from paddock.errors import CorruptFile, ModelRejected, PaddockError
from paddock.gguf.directory import get_gguf_file_path
from paddock.gguf.reader import FileSource, read_header
from paddock.lifecycle.assess.verified import open_snapshot
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.retries import Kind
from paddock.lifecycle.steps import step
from paddock.model.artifact import Manifest
from paddock.model.finding import Finding, Severity
from paddock.model.names import Sha256
from paddock.model.reference import SnapshotId
from paddock.store.open_snapshot import read_stored
from paddock.validation.audit import TEMPLATE, Audit

_LOG = logging.getLogger(__name__)
_GREETING = "Good evening. Is the gate still open?"
SAMPLES: dict[str, list[dict[str, object]]] = {
    "one question": [{"role": "user", "content": _GREETING}],
    "a system message and a question": [
        {"role": "system", "content": "Answer in one sentence."},
        {"role": "user", "content": _GREETING},
    ],
    "a second question": [
        {"role": "user", "content": _GREETING},
        {"role": "assistant", "content": "Until nine."},
        {"role": "user", "content": "Then I shall hurry."},
    ],
}


@dataclass(frozen=True, slots=True)
class ChatTemplateCheck:
    """A snapshot's chat template, and the text that each sample renders to, or the reason why it does not.

    `findings` are those of this check, `audited` those of the audit on the templates. `chat` is None for a model that
    nobody chats with, such as an embedding model: then nothing was checked.
    """

    chat: ChatFormat | None
    samples: dict[str, str]
    findings: tuple[Finding, ...]
    audited: tuple[Finding, ...] = ()


@step(Kind.LOCAL, "chat")
def check_chat_template(clients: Clients, manifest: Manifest, audit: Audit) -> ChatTemplateCheck:
    """Render the samples, and compare the template with that of the promoted revision. `audit` is the audit of the
    snapshot's model."""
    audited = tuple(finding for finding in audit.findings if finding.rule.startswith("template."))
    if audit.model is not None and not audit.model.kind.generates_text:
        return ChatTemplateCheck(None, {}, (), audited)
    chat = chat_of_snapshot(clients, manifest)
    samples = {name: _sample(chat, messages) for name, messages in SAMPLES.items()}
    return ChatTemplateCheck(chat, samples, tuple(template_change(clients, manifest, chat)), audited)


def chat_of_snapshot(clients: Clients, manifest: Manifest) -> ChatFormat:
    """The chat template and stop sequences that the snapshot was published with. Older versions of Paddock published
    the template alone; then the rest is derived from it. Raises CorruptFile, also for files that were edited since."""
    volume = clients.volume
    contents = [read_stored(volume, manifest, name) for name in (CHAT_FILE, TEMPLATE_FILE)]
    try:
        settings, template = map(_text, contents)
        if template is not None and settings is not None and is_complete(settings):
            return read_chat_format(settings, template, volume.snapshot_path(manifest.id))
        with open_snapshot(clients, manifest) as opened:
            if template is None:
                return choose_chat_format(opened.directory, manifest.repository)
            if settings is None:
                return chat_format_for_template(template, opened.directory)
            return read_chat_format(settings, template, opened.directory)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, PaddockError):
            raise
        raise CorruptFile(
            f"{CHAT_FILE} of {manifest.id.short} on {volume.label} is damaged: it cannot be parsed",
            cure=f"pull it again (`paddock pull {manifest.id}`)",
        ) from None


def template_change(clients: Clients, manifest: Manifest, chat: ChatFormat) -> Iterator[Finding]:
    """Yield a finding if another snapshot is promoted, and its template differs."""
    promoted = _compared_with(clients, manifest.id)
    if promoted is None:
        return
    try:
        stored = clients.volume.snapshot(promoted)
        old = _text(read_stored(clients.volume, stored, TEMPLATE_FILE)) if stored else None
    except PaddockError as error:  # it is damaged
        _LOG.warning("the chat template of %s is not compared with: %s", promoted.short, error.message)
        return
    if old is None or old == chat.template:
        return
    lines = list(difflib.unified_diff(old.splitlines(), chat.template.splitlines(), n=0, lineterm=""))[2:]
    added, removed = (sum(line.startswith(sign) for line in lines) for sign in "+-")
    yield _changed(promoted, f": {added} lines added, {removed} removed")


def gguf_template_change(clients: Clients, id: SnapshotId, sha256: Sha256 | None) -> Iterator[Finding]:
    """Yield a finding if another snapshot than `id` is promoted, and the template in its GGUF has another digest than
    `sha256`. A promoted GGUF that cannot be read is not compared."""
    try:
        promoted = _compared_with(clients, id)
        if promoted is None:
            return
        with FileSource(get_gguf_file_path(clients.volume.snapshot_path(promoted))) as source:
            old = read_header(source).text(TEMPLATE)
    except PaddockError:
        return
    if sha256 != (hashlib.sha256(old.encode()).hexdigest() if old is not None else None):
        yield _changed(promoted)


def _compared_with(clients: Clients, id: SnapshotId) -> SnapshotId | None:
    """The promoted snapshot of the variant, else of the default; None where that is the snapshot itself."""
    promoted = clients.volume.promoted(id.model)
    reference = promoted.of(id.variant) or promoted.default_id
    return None if reference == id else reference


def _changed(promoted: SnapshotId, difference: str = "") -> Finding:
    name = f"{promoted.variant}@{promoted.revision[:8]}"
    message = f"the chat template differs from that of {name}, which is promoted{difference}"
    return Finding("template.changed", Severity.WARN, message, TEMPLATE, "compare the two templates")


def _sample(chat: ChatFormat, messages: list[dict[str, object]]) -> str:
    try:
        return render_messages(chat.template, messages, bos=chat.bos, eos=chat.eos)
    except ModelRejected as error:
        return f"(not rendered: {error.message})"


def _text(content: bytes | None) -> str | None:
    return None if content is None else content.decode(errors="surrogatepass")
