"""Pulling again: the choice between the default variant and another one, and the derived files of a snapshot."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest

from infra.local.hub import HubService
from paddock.engine.oracle import MARGIN_BYTES
from paddock.errors import (
    BadSetting,
    DoesNotFit,
    FileNotInRevision,
)
from paddock.lifecycle.acquire.acquire import SERVED
from paddock.lifecycle.acquire.pull import pull
from paddock.lifecycle.assess.preflight import preflight
from paddock.lifecycle.clients import Clients
from paddock.model.names import ModelName
from paddock.model.reference import Reference, Variant
from paddock.planning.placement import Target
from paddock.planning.targets import UNBOUNDED
from paddock.store.history import Promoted
from tests.support.gguf import CHATML, TYPE_F32, U32, tiny_llama
from tests.support.stores import Q4, Q8
from tests.support.tiny_hub import (
    MODEL,
    NAME,
    Q4_K_M,
    Q8_0,
    tiny_model,
)

SMALL_FILES = ["config.json", "tokenizer_config.json"]


def taken_bytes(clients: Clients, variant: Variant) -> int:
    """The memory that a variant takes as it is served."""
    return preflight(clients, f"{NAME}:{variant}", SERVED, target=UNBOUNDED).plan.memory.total_bytes


def test_a_default_that_does_not_fit_is_replaced_by_a_variant_that_does_with_a_note(
    clients: Clients, hub: HubService
) -> None:
    shape: dict[str, Any] = {"layers": 8, "width": 128, "inner": 512}
    large_file = tiny_llama(kind=TYPE_F32, **shape).set("general.file_type", U32, Q8_0)
    small_file = tiny_llama(**shape).set("general.file_type", U32, Q4_K_M)
    hub.repository(NAME).commit({"tiny-Q8_0.gguf": large_file.to_bytes(), "tiny-Q4_K_M.gguf": small_file.to_bytes()})
    before = pull(clients, Reference(MODEL, Q8), target=UNBOUNDED).manifest
    small, large = taken_bytes(clients, Q4), taken_bytes(clients, Q8)
    between = Target(MARGIN_BYTES + (small + large) // 2)
    pulled = pull(clients, Reference(MODEL), target=between)
    assert pulled.manifest.variant == Q4
    (note,) = [note for note in pulled.notes if "is not kept" in note]
    assert note.startswith("the default variant Q8_0 is not kept: Q8_0 of org/tiny-GGUF@")
    assert "does not fit" in note
    assert pulled.to_json()["notes"] == list(pulled.notes)
    assert clients.volume.promoted(MODEL) == Promoted(MODEL, Q4, {Q8: before.revision, Q4: before.revision})
    back = pull(clients, Reference(MODEL), target=UNBOUNDED)
    assert back.manifest.variant == Q4, "what was chosen then is the default now, and is kept"
    assert pull(clients, Reference(MODEL), quantization="best", target=UNBOUNDED).manifest == before


def test_where_nothing_fits_the_error_is_about_the_default(clients: Clients) -> None:
    before = pull(clients, Reference(MODEL, Q4), target=UNBOUNDED).manifest
    with pytest.raises(DoesNotFit, match=r"Q4_K_M takes .* are missing"):
        pull(clients, Reference(MODEL), target=Target(MARGIN_BYTES + 1024))
    assert clients.volume.promoted(MODEL).default_id == before.id


def test_a_default_that_lost_a_shard_is_replaced_with_a_note_on_the_shard(clients: Clients, hub: HubService) -> None:
    pull(clients, Reference.parse(f"{NAME}:Q6_K"), target=UNBOUNDED)
    hub.repository(NAME).commit({"big/tiny-Q6_K-00002-of-00002.gguf": None})
    pulled = pull(clients, Reference(MODEL), target=UNBOUNDED)
    assert pulled.manifest.variant == Q8
    (note,) = [note for note in pulled.notes if "is not kept" in note]
    assert "big/tiny-Q6_K-00002-of-00002.gguf" in note


def test_a_variant_that_is_requested_by_name_is_never_replaced(clients: Clients, hub: HubService) -> None:
    pull(clients, Reference(MODEL, Q4), target=UNBOUNDED)
    hub.repository(NAME).commit({"tiny-Q4_K_M.gguf": None})
    with pytest.raises(FileNotInRevision, match="has no Q4_K_M"):
        pull(clients, Reference(MODEL, Q4), target=UNBOUNDED)
    assert clients.volume.promoted(MODEL).default == Q4


@pytest.mark.parametrize("quantization", ["Q8_0", "best"])
def test_a_variant_and_another_quantization_beside_it_are_wrong_usage(clients: Clients, quantization: str) -> None:
    with pytest.raises(BadSetting, match="give one of the two") as raised:
        pull(clients, Reference(MODEL, Q4), quantization=quantization)
    assert raised.value.exit_status == 3
    assert pull(clients, Reference(MODEL, Q4), quantization="q4_k_m").manifest.variant == Q4


def test_the_chat_template_and_its_settings_are_published_with_a_model(clients: Clients, hub: HubService) -> None:
    pulled = pull(clients, Reference(MODEL))
    chat = json.loads((pulled.path / "chat.paddock.json").read_text())
    assert chat == {
        "schema": 2,
        "template_sha256": pulled.manifest.template_sha256,
        "origin": "the GGUF",
        "why": "the model brings it",
        "bos": "<s>",
        "eos": "</s>",
        "stop": ["<|im_end|>", "<|im_start|>user"],
    }


def test_the_repositorys_own_template_is_used_if_the_file_has_none(clients: Clients, hub: HubService) -> None:
    other = ModelName.parse("org/bare-GGUF")
    own = CHATML + "{# beside #}"
    bare = tiny_llama(template=None).to_bytes()
    hub.repository(str(other)).commit({"bare-Q8_0.gguf": bare, "chat_template.jinja": own.encode()})
    path = pull(clients, Reference(other)).path
    assert (path / "chat_template.jinja").read_text() == own
    assert json.loads((path / "chat.paddock.json").read_text())["origin"] == "chat_template.jinja"
    assert {one.origin for one in pull(clients, Reference(other)).acquired} == {"volume"}


def test_a_published_template_is_kept_even_if_another_would_be_chosen_now(clients: Clients) -> None:
    pulled = pull(clients, Reference(MODEL))
    contents = [(pulled.path / file.path).read_bytes() for file in pulled.manifest.files]
    clients.volume.remove(MODEL)
    for content in contents:
        clients.volume.add_bytes(content)
    digest = clients.volume.add_bytes(b"{# of an older Paddock #}")
    files = [
        replace(file, sha256=digest, size=25, segments=()) if file.path == "chat_template.jinja" else file
        for file in pulled.manifest.files
        if file.path != "chat.paddock.json"
    ]
    older = replace(pulled.manifest, files=tuple(files), template_sha256=digest)
    clients.volume.publish(older)
    again = pull(clients, Reference(MODEL)).manifest
    assert again == older
    assert again.template_sha256 == digest


@pytest.mark.parametrize("harm", ["a flipped bit", "gone"])
def test_a_damaged_derived_file_is_written_again(clients: Clients, harm: str) -> None:
    pulled = pull(clients, Reference(MODEL))
    derived = [file for file in pulled.manifest.files if "chat" in file.path]
    assert len(derived) == 2
    for file in derived:
        blob = clients.volume.blob_path(file.sha256)
        if harm == "gone":
            blob.unlink()
        else:
            content = bytearray(blob.read_bytes())
            content[0] ^= 1
            blob.chmod(0o644)
            blob.write_bytes(content)
    again = pull(clients, Reference(MODEL)).manifest
    assert again.files == pulled.manifest.files
    for file in derived:
        assert sha256((pulled.path / file.path).read_bytes()).hexdigest() == file.sha256


def test_files_of_a_repository_that_are_named_like_those_of_a_snapshot_are_not_pulled(
    clients: Clients, hub: HubService
) -> None:
    other = ModelName.parse("org/copied-GGUF")
    hub.repository(str(other)).commit(
        {"tiny-Q8_0.gguf": tiny_model(), "chat.paddock.json": b"{}", "manifest.json": b"{}", "config.json": b"{}"}
    )
    pulled = pull(clients, Reference(other))
    assert json.loads((pulled.path / "chat.paddock.json").read_text())["origin"] == "the GGUF"
