"""Without the Hub (HF_HUB_OFFLINE, refused connections, 5xx, no such host) what is on the volume is the answer."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from infra.local.hub import HubService
from paddock import download_model_to_path, get_gguf_file_path, get_model_path_from_name
from paddock.errors import HubRefused, HubUnavailable, PaddockError, RevisionNotFound, UnsafeName
from paddock.lifecycle.acquire.pull import pull
from paddock.lifecycle.assess.inspect import inspect
from paddock.lifecycle.assess.preflight import preflight
from paddock.lifecycle.clients import Clients, connect
from paddock.lifecycle.locate import locate
from paddock.lifecycle.promote.promote import roll_back
from paddock.lifecycle.revisions import list_revision, resolve_commit
from paddock.model.names import Revision
from paddock.model.reference import Reference
from paddock.planning.plan import PlanRequest
from tests.support.stores import A, B, manifest_of, publish
from tests.support.tiny_hub import MODEL, NAME, tiny_model

OUT = {
    "offline": ("HF_HUB_OFFLINE", "1", HubRefused),
    "refused": ("HF_ENDPOINT", "http://127.0.0.1:1", HubUnavailable),
    "no host": ("HF_ENDPOINT", "http://hub.invalid", HubUnavailable),
}


def without_hub(monkeypatch: pytest.MonkeyPatch, how: str = "offline") -> Clients:
    name, value, _ = OUT[how]
    monkeypatch.setenv(name, value)
    return connect()


def stored(clients: Clients, revision: Revision, *, promote: bool = False) -> None:
    """A snapshot of the tiny model with bytes of no GGUF: enough to list it."""
    clients.volume.prepare()
    manifest = publish(clients.volume, revision, {"tiny-Q8_0.gguf": revision.encode()}, Path(), model=MODEL)
    if promote:
        clients.volume.promote(manifest.id, reason="a test")


@pytest.mark.parametrize("how", OUT)
def test_a_remembered_branch_is_listed_from_the_volume(
    clients: Clients, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    stored(clients, A)
    clients.volume.refs.remember(MODEL, "main", A)
    with caplog.at_level(logging.WARNING, "paddock"):
        listing = list_revision(without_hub(monkeypatch, how), MODEL)
    assert (listing.revision, [file.path for file in listing.files]) == (A, ["tiny-Q8_0.gguf"])
    (line,) = caplog.messages
    assert f"{NAME}@aaaaaaaa is used, the commit of main at 20" in line


@pytest.mark.parametrize("status", [500, 502, 503])
def test_a_hub_that_answers_5xx_counts_as_out(clients: Clients, hub: HubService, status: int) -> None:
    stored(clients, A, promote=True)
    hub.inject("status", "*", status=status, where="hub", times=9)
    assert list_revision(clients, MODEL).revision == A


def test_a_branch_is_remembered_when_the_hub_answers(clients: Clients) -> None:
    assert list_revision(clients, MODEL).revision
    assert not clients.volume.root.exists()  # nothing is made for a question
    commit = list_revision(clients, MODEL, make_volume=True).revision
    assert clients.volume.refs.of(MODEL)["main"].revision == commit


@pytest.mark.parametrize(
    ("remembered", "promoted", "ref", "expected"),
    [
        ("none", "A", "main", "A"),
        ("B, which is stored", "A", "main", "B"),
        ("B, which is not stored", "A", "main", "A"),
        ("none", "A", "v1", "an error"),
        ("none", "nothing", "main", "an error"),
    ],
)
def test_the_promoted_snapshot_stands_for_main_where_nothing_better_is_known(
    clients: Clients, monkeypatch: pytest.MonkeyPatch, remembered: str, promoted: str, ref: str, expected: str
) -> None:
    stored(clients, A, promote=promoted == "A")
    if remembered == "B, which is stored":
        stored(clients, B)
    if remembered != "none":
        clients.volume.refs.remember(MODEL, "main", B)
    out = without_hub(monkeypatch)
    if expected == "an error":
        with pytest.raises(HubRefused, match=r"HF_HUB_OFFLINE is set, and org/tiny-GGUF.* is not on the volume"):
            list_revision(out, MODEL, ref)
    else:
        assert list_revision(out, MODEL, ref).revision == {"A": A, "B": B}[expected]


@pytest.mark.parametrize("how", OUT)
def test_what_is_not_there_is_named_with_what_is(clients: Clients, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    stored(clients, A, promote=True)
    with pytest.raises(OUT[how][2]) as caught:
        list_revision(without_hub(monkeypatch, how), MODEL, variant="Q4_K_M")
    error = caught.value
    assert isinstance(error, PaddockError)
    assert f"and {NAME}:Q4_K_M is not on {clients.volume.label}, which has Q8_0@aaaaaaaa of it" in error.message
    assert error.cure


def test_the_beginning_of_a_commit_needs_no_hub(clients: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Revision("abcd" + "0" * 36)
    stored(clients, A, promote=True)
    stored(clients, other, promote=True)
    out = without_hub(monkeypatch)
    for text, commit in (("aaaa", A), ("abcd", other), ("ABCD00", other), (A[:39], A), (A.upper(), A)):
        assert list_revision(out, MODEL, text).revision == commit
        assert locate(out, Reference(MODEL, ref=text)).revision == commit
    assert roll_back(out, Reference(MODEL, ref="aaaa"), "back").revision == A


def test_an_ambiguous_or_unknown_beginning_names_the_candidates(clients: Clients) -> None:
    stored(clients, A)
    stored(clients, Revision("a" * 14 + "0" * 26))
    with pytest.raises(UnsafeName, match="2 commits begin with aaaa: aaaaaaaaaaaaaa0, aaaaaaaaaaaaaaa: use a longer"):
        resolve_commit(clients, MODEL, "aaaa")
    with pytest.raises(RevisionNotFound, match=r"is the beginning of no commit on .* Q8_0@aaaaaaaa of it"):
        resolve_commit(clients, MODEL, "dead")


def test_a_removed_commit_is_known_by_the_history(clients: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(clients, A, promote=True)
    clients.volume.remove(MODEL)
    assert resolve_commit(without_hub(monkeypatch), MODEL, "aaaa") == A


def test_pull_plan_inspect_and_download_work_without_the_hub(
    clients: Clients, hub: HubService, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = pull(clients, Reference.parse(NAME)).manifest
    hub.repository(NAME).commit({"tiny-Q8_0.gguf": tiny_model(name="next")})
    hub.reset_stats()
    out = without_hub(monkeypatch, "refused")
    assert preflight(out, NAME, PlanRequest(128)).file == "tiny-Q8_0.gguf"
    assert inspect(out, NAME).verdict == "accept"
    own = get_model_path_from_name(NAME)
    assert download_model_to_path(NAME, own) == own  # a pull
    assert out.volume.promoted(MODEL).default_id == first.id
    plain = download_model_to_path(NAME, tmp_path / "plain")
    assert get_gguf_file_path(plain).read_bytes() == tiny_model()
    assert hub.stats().total_bytes_sent == 0


def test_a_complete_directory_is_the_answer_without_hub_and_volume(
    clients: Clients, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain = download_model_to_path(NAME, tmp_path / "plain")
    without_hub(monkeypatch)
    assert download_model_to_path(NAME, plain) == plain
    with pytest.raises(HubRefused, match="is not on the volume"):
        download_model_to_path(f"{NAME}:Q4_K_M", plain)
    gguf = get_gguf_file_path(plain)
    gguf.write_bytes(gguf.read_bytes()[:-100])
    with pytest.raises(HubRefused, match="is not on the volume"):
        download_model_to_path(NAME, plain)


def test_a_damaged_blob_of_the_volume_is_not_copied(
    clients: Clients, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = manifest_of(A, {"tiny-Q8_0.gguf": tiny_model()}, model=MODEL)
    clients.volume.prepare()
    digest = clients.volume.add_bytes(tiny_model())
    assert digest == manifest.files[0].sha256
    blob = clients.volume.blob_path(digest)
    blob.chmod(0o644)
    blob.write_bytes(bytes(len(tiny_model())))
    plain = download_model_to_path(NAME, tmp_path / "plain")
    assert get_gguf_file_path(plain).read_bytes() == tiny_model()
