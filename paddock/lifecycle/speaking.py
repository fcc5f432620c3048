"""How a snapshot is spoken with: its chat template and what goes with it, what that makes of conversations, and whether
it is another than that of the promoted revision."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from paddock.chat.render import render_messages
from paddock.chat.template import CHAT_FILE, TEMPLATE_FILE, Chat, chat_of, chat_with
from paddock.errors import CorruptFile, ModelRejected, PaddockError
from paddock.gguf.reader import FileSource, read_header
from paddock.lifecycle.parts import Parts
from paddock.model.artifact import Manifest
from paddock.model.finding import Finding, Severity
from paddock.model.names import Sha256
from paddock.model.quantization import get_gguf_file_path
from paddock.model.reference import SnapshotId
from paddock.validation.audit import TEMPLATE

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
class Spoken:
    """The chat of a snapshot, what each sample becomes (or why it does not), and what was found."""

    chat: Chat
    samples: dict[str, str]
    findings: tuple[Finding, ...]


def check_chat(parts: Parts, manifest: Manifest) -> Spoken:
    """Render the samples, and compare the template with that of the revision that is promoted."""
    chat = chat_in(parts, manifest)
    samples = {name: _sample(chat, messages) for name, messages in SAMPLES.items()}
    return Spoken(chat, samples, tuple(template_change(parts, manifest, chat)))


def chat_in(parts: Parts, manifest: Manifest) -> Chat:
    """How the snapshot says that it is spoken with. One that an older Paddock published has its template, and what goes
    with that is worked out."""
    snapshot = parts.volume.snapshot_path(manifest.id)
    said, template = _text(snapshot / CHAT_FILE), _text(snapshot / TEMPLATE_FILE)
    if template is None:
        return chat_of(snapshot, manifest.repository)
    if said is None:
        return chat_with(template, snapshot)
    try:
        return Chat.from_json(said, template)
    except (ValueError, KeyError, TypeError):
        raise CorruptFile(
            f"{snapshot / CHAT_FILE} is not what was published", cure=f"pull it again (`paddock pull {manifest.id}`)"
        ) from None


def template_change(parts: Parts, manifest: Manifest, chat: Chat) -> Iterator[Finding]:
    """A finding where another snapshot is promoted, with another template."""
    promoted = _compared_with(parts, manifest.id)
    if promoted is None:
        return
    old = _text(parts.volume.snapshot_path(promoted) / TEMPLATE_FILE)
    if old is None or old == chat.template:
        return
    lines = list(difflib.unified_diff(old.splitlines(), chat.template.splitlines(), n=0, lineterm=""))[2:]
    came, went = (sum(line.startswith(sign) for line in lines) for sign in "+-")
    yield _changed(promoted, f": {came} lines came and {went} went")


def gguf_template_change(parts: Parts, id: SnapshotId, sha256: Sha256 | None) -> Iterator[Finding]:
    """A finding where another snapshot than `id` is promoted, whose GGUF has another template than the one with this
    digest. What cannot be read there is nothing to compare with."""
    try:
        promoted = _compared_with(parts, id)
        if promoted is None:
            return
        with FileSource(get_gguf_file_path(parts.volume.snapshot_path(promoted))) as source:
            old = read_header(source).text(TEMPLATE)
    except PaddockError:
        return
    if sha256 != (hashlib.sha256(old.encode()).hexdigest() if old is not None else None):
        yield _changed(promoted)


def _compared_with(parts: Parts, id: SnapshotId) -> SnapshotId | None:
    """The promoted snapshot of the variant, else of the default; None where that is the snapshot itself."""
    promoted = parts.volume.promoted(id.model)
    before = promoted.of(id.variant) or promoted.default_id
    return None if before == id else before


def _changed(promoted: SnapshotId, how: str = "") -> Finding:
    which = f"{promoted.variant}@{promoted.revision[:8]}"
    message = f"the chat template is another than that of {which}, which is promoted{how}"
    return Finding("template.changed", Severity.WARN, message, TEMPLATE, "read what changed")


def _sample(chat: Chat, messages: list[dict[str, object]]) -> str:
    try:
        return render_messages(chat.template, messages, bos=chat.bos, eos=chat.eos)
    except ModelRejected as error:
        return f"(not rendered: {error.message})"


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="surrogatepass")
    except FileNotFoundError:
        return None
