"""The Hub's own id is the name of a model: earlier names and other letter cases lead to the same one."""

from __future__ import annotations

import logging

import pytest

from infra.local.hub import HubService
from paddock import download_model_to_path, get_model_path_from_name, list_model_files
from paddock.lifecycle.clients import Clients, connect
from paddock.lifecycle.locate import locate
from paddock.lifecycle.revisions import list_revision
from paddock.model.names import ModelName
from paddock.model.reference import Reference
from tests.support.tiny_hub import MODEL, NAME

OLD, CASE = "before/tiny-GGUF", "ORG/Tiny-gguf"


@pytest.fixture(autouse=True)
def renamed(hub: HubService) -> None:
    hub.rename(OLD, NAME)


@pytest.mark.parametrize("name", [OLD, CASE], ids=["renamed", "case"])
def test_another_spelling_is_listed_under_the_hubs_own(
    clients: Clients, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    with caplog.at_level(logging.WARNING, "paddock"):
        assert list_revision(clients, ModelName.parse(name)).model == MODEL
    assert caplog.messages == [f"{name} is {NAME} on the Hub, which is its name on the volume"]


def test_three_spellings_give_one_model(clients: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    list_revision(clients, ModelName.parse(OLD), make_volume=True)
    link = download_model_to_path(CASE, get_model_path_from_name(CASE))
    assert link == get_model_path_from_name(NAME) == get_model_path_from_name(CASE) == get_model_path_from_name(OLD)
    assert {manifest.repository for manifest in clients.volume.snapshots()} == {NAME}
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    out = connect()
    revision = locate(out, Reference.parse(NAME)).revision
    for name in (OLD, CASE, NAME):
        assert locate(out, Reference.parse(name)).revision == revision
        assert list_revision(out, ModelName.parse(name)).revision == revision
        assert list_model_files(name)
