"""The chat template of a snapshot, and findings on its changes."""

from __future__ import annotations

from dataclasses import replace

from infra.local.hub import HubService
from paddock.chat.families import GENERIC
from paddock.chat.template import TEMPLATE_FILE
from paddock.lifecycle.acquire.pull import pull
from paddock.lifecycle.assess.chat_template import SAMPLES, ChatTemplateCheck, chat_of_snapshot, check_chat_template
from paddock.lifecycle.assess.inspect import inspect
from paddock.lifecycle.assess.validate import audit_snapshot
from paddock.lifecycle.clients import Clients
from paddock.model.artifact import Manifest
from paddock.model.finding import Severity, Verdict
from paddock.model.names import Revision
from paddock.model.reference import Reference
from tests.support.gguf import CHATML, STRING, tiny_llama
from tests.support.tiny_hub import MODEL, NAME


def check_chat(clients: Clients, manifest: Manifest) -> ChatTemplateCheck:
    return check_chat_template(clients, manifest, audit_snapshot(clients, manifest))


def test_the_samples_are_rendered_by_the_template_that_was_published(clients: Clients, pulled: Manifest) -> None:
    check = check_chat(clients, pulled)
    assert check.chat is not None
    assert (check.chat.origin, check.chat.template, check.findings) == ("the GGUF", CHATML, ())
    assert set(check.samples) == set(SAMPLES)
    assert check.samples["one question"] == (
        "<|im_start|>user\nGood evening. Is the gate still open?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_rejected_template_leads_to_the_familys_and_is_never_rendered(clients: Clients, hub: HubService) -> None:
    hostile = "{{ ''.__class__ }}" + CHATML
    file = tiny_llama(template=hostile).set("tokenizer.chat_template.rag", STRING, hostile)
    hub.repository(NAME).commit({"tiny-Q8_0.gguf": file.to_bytes()})
    manifest = pull(clients, Reference(MODEL)).manifest
    assert manifest.verdict is Verdict.WARN
    check = check_chat(clients, manifest)
    assert check.chat is not None
    assert (check.chat.origin, check.chat.template) == ("family", GENERIC.source)
    assert check.chat.why.endswith("that of the GGUF is passed over for template.underscore")
    assert check.samples["one question"].endswith("### Human: Good evening. Is the gate still open?\n### Assistant:")
    assert "__class__" not in (clients.volume.snapshot_path(manifest.id) / TEMPLATE_FILE).read_text()
    assert {finding.severity for finding in check.audited} == {Severity.WARN}


def test_the_published_chat_settings_are_read_back_unchanged(clients: Clients, pulled: Manifest) -> None:
    chat = chat_of_snapshot(clients, pulled)
    assert chat.sha256 == pulled.template_sha256
    assert chat.stop == ("<|im_end|>", "<|im_start|>user")


def test_a_template_that_differs_from_the_promoted_one_is_reported_by_the_check_and_by_inspect(
    clients: Clients, pulled: Manifest, hub: HubService
) -> None:
    assert check_chat(clients, pulled).findings == ()
    changed = tiny_llama(template=CHATML + "\n{# once more #}")
    hub.repository(NAME).commit({"tiny-Q8_0.gguf": changed.to_bytes()})
    inspection = inspect(clients, NAME)
    (finding,) = inspection.audit.findings
    assert (finding.rule, finding.severity) == ("template.changed", Severity.WARN)
    assert pulled.revision[:8] in finding.message
    assert inspection.verdict is Verdict.WARN
    assert inspection.to_json()["template"]["source"] == "tokenizer.chat_template"

    second = pull(clients, Reference(MODEL), promote=False).manifest
    (finding,) = check_chat(clients, second).findings
    assert finding.message.endswith("which is promoted: 1 lines added, 0 removed")


def test_a_new_revision_with_the_same_template_has_no_finding(
    clients: Clients, pulled: Manifest, hub: HubService
) -> None:
    hub.repository(NAME).commit({"README.md": b"---\nlicense: mit\n---\nAgain\n"})
    assert inspect(clients, NAME).audit.findings == ()


def test_an_older_snapshot_keeps_the_template_that_it_was_published_with(clients: Clients, pulled: Manifest) -> None:
    template = CHATML.replace("im_", "older_")
    digest = clients.volume.add_bytes(template.encode())
    files = [
        replace(file, sha256=digest, size=len(template), segments=()) if file.path == "chat_template.jinja" else file
        for file in pulled.files
        if file.path != "chat.paddock.json"
    ]
    older = replace(pulled, revision=Revision("0" * 40), files=tuple(files), template_sha256=digest)
    clients.volume.publish(older)
    chat = chat_of_snapshot(clients, older)
    assert (chat.template, chat.sha256) == (template, older.template_sha256)
    assert chat.stop == ("<|older_end|>", "<|older_start|>user")


def test_the_same_file_with_the_familys_template_has_no_finding(clients: Clients, hub: HubService) -> None:
    tools = "{% for tool in tools %}{{ tool|tojson }}{% endfor %}" + CHATML
    hub.repository(NAME).commit({"tiny-Q8_0.gguf": tiny_llama(template=tools).to_bytes()})
    assert chat_of_snapshot(clients, pull(clients, Reference(MODEL)).manifest).origin == "family"
    hub.repository(NAME).commit({"README.md": b"---\nlicense: mit\n---\nAgain\n"})
    assert "template.changed" not in {finding.rule for finding in inspect(clients, NAME).audit.findings}
