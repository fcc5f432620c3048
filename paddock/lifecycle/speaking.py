"""How a snapshot is spoken with: its chat template and what goes with it, what that makes of conversations, and whether
it is another than that of the promoted revision."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from paddock.chat.render import render_messages
from paddock.chat.template import CHAT_FILE, TEMPLATE_FILE, Chat, chat_of
from paddock.errors import CorruptFile, ModelRejected
from paddock.lifecycle.parts import Parts
from paddock.model.artifact import Manifest
from paddock.model.finding import Finding, Severity
from paddock.model.names import ModelName, Revision, Sha256

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
    changed = template_change(parts, manifest.model, manifest.revision, chat.sha256, chat.template)
    return Spoken(chat, samples, tuple(changed))


def chat_in(parts: Parts, manifest: Manifest) -> Chat:
    """How the snapshot says that it is spoken with; worked out anew for one that an older Paddock published."""
    snapshot = parts.volume.snapshot_path(manifest.model, manifest.revision)
    said, template = _text(snapshot / CHAT_FILE), _text(snapshot / TEMPLATE_FILE)
    if said is None or template is None:
        return chat_of(snapshot, manifest.repository)
    try:
        return Chat.from_json(said, template)
    except (ValueError, KeyError, TypeError):
        raise CorruptFile(
            f"{snapshot / CHAT_FILE} is not what was published", cure="remove that snapshot and pull it again"
        ) from None


def template_change(
    parts: Parts, model: ModelName, revision: Revision, sha256: Sha256 | None, template: str | None = None
) -> Iterator[Finding]:
    """A finding where the promoted snapshot of another revision has another template."""
    promoted = parts.volume.promoted(model)
    if promoted is None or promoted == revision or sha256 is None:
        return
    before = parts.volume.snapshot(model, promoted)
    if before is None or before.template_sha256 in {None, sha256}:
        return
    how = ""
    old = _text(parts.volume.snapshot_path(model, promoted) / TEMPLATE_FILE)
    if template is not None and old is not None:
        lines = list(difflib.unified_diff(old.splitlines(), template.splitlines(), n=0, lineterm=""))[2:]
        came, went = (sum(line.startswith(sign) for line in lines) for sign in "+-")
        how = f": {came} lines came and {went} went"
    message = f"the chat template is another than that of {promoted[:8]}, which is promoted{how}"
    yield Finding("template.changed", Severity.WARN, message, "tokenizer.chat_template", "read what changed")


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
