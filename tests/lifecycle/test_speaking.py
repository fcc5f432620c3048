"""How a snapshot is spoken with, and that a change of its template is told."""

from __future__ import annotations

from infra.local.hub import Service
from paddock.lifecycle.inspection import inspect
from paddock.lifecycle.parts import Parts
from paddock.lifecycle.pull import pull
from paddock.lifecycle.speaking import SAMPLES, chat_in, check_chat
from paddock.model.finding import Severity, Verdict
from paddock.model.names import Revision
from paddock.model.reference import Reference
from tests.support.gguf import CHATML, tiny_llama
from tests.support.house import MODEL, NAME


def test_the_samples_are_rendered_by_the_template_that_was_published(parts: Parts) -> None:
    spoken = check_chat(parts, pull(parts, Reference(MODEL)).manifest)
    assert (spoken.chat.origin, spoken.chat.template, spoken.findings) == ("the GGUF", CHATML, ())
    assert set(spoken.samples) == set(SAMPLES)
    assert spoken.samples["one question"] == (
        "<|im_start|>user\nGood evening. Is the gate still open?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_what_a_snapshot_says_of_its_chat_comes_back_as_it_was_worked_out(parts: Parts) -> None:
    manifest = pull(parts, Reference(MODEL)).manifest
    chat = chat_in(parts, manifest)
    assert chat.sha256 == manifest.template_sha256
    assert chat.stop == ("<|im_end|>", "<|im_start|>user")


def test_another_template_than_the_promoted_ones_is_told_by_the_check_and_by_inspect(
    parts: Parts, hub: Service
) -> None:
    first = pull(parts, Reference(MODEL)).manifest
    assert check_chat(parts, first).findings == ()
    changed = tiny_llama(template=CHATML + "\n{# once more #}")
    hub.repository(NAME).commit({"tiny-Q8_0.gguf": changed.to_bytes()})
    told = inspect(parts, NAME)
    (finding,) = told.audit.findings
    assert (finding.rule, finding.severity) == ("template.changed", Severity.WARN)
    assert first.revision[:8] in finding.message
    assert told.verdict is Verdict.WARN
    assert told.to_json()["template"]["source"] == "tokenizer.chat_template"

    second = pull(parts, Reference(MODEL), promote=False).manifest
    (finding,) = check_chat(parts, second).findings
    assert finding.message.endswith("which is promoted: 1 lines came and 0 went")


def test_a_new_revision_with_the_same_template_is_no_change(parts: Parts, hub: Service) -> None:
    pull(parts, Reference(MODEL))
    hub.repository(NAME).commit({"README.md": b"---\nlicense: mit\n---\nAgain\n"})
    assert inspect(parts, NAME).audit.findings == ()


def test_an_older_snapshot_is_spoken_with_by_the_template_that_it_was_published_with(parts: Parts) -> None:
    manifest = pull(parts, Reference(MODEL)).manifest
    template = CHATML.replace("im_", "older_")
    digest = parts.volume.add_bytes(template.encode())
    files = [
        file.model_copy(update={"sha256": digest, "size": len(template), "segments": ()})
        if file.path == "chat_template.jinja"
        else file
        for file in manifest.files
        if file.path != "chat.paddock.json"
    ]
    older = manifest.model_copy(
        update={"revision": Revision("0" * 40), "files": tuple(files), "template_sha256": digest}
    )
    parts.volume.publish(older)
    chat = chat_in(parts, older)
    assert (chat.template, chat.sha256) == (template, older.template_sha256)
    assert chat.stop == ("<|older_end|>", "<|older_start|>user")


def test_where_the_familys_template_is_used_the_same_file_is_no_change(parts: Parts, hub: Service) -> None:
    tools = "{% for tool in tools %}{{ tool|tojson }}{% endfor %}" + CHATML
    hub.repository(NAME).commit({"tiny-Q8_0.gguf": tiny_llama(template=tools).to_bytes()})
    assert chat_in(parts, pull(parts, Reference(MODEL)).manifest).origin == "family"
    hub.repository(NAME).commit({"README.md": b"---\nlicense: mit\n---\nAgain\n"})
    assert "template.changed" not in {finding.rule for finding in inspect(parts, NAME).audit.findings}
