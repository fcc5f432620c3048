"""The local Hub through third-party clients: huggingface_hub, its command `hf`, hf_transfer and curl."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_download, hf_hub_url, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile, RepoFolder

from infra.local.hub import HubService
from infra.local.hub.git import blob_id, lfs_pointer
from tests.support.hub import hub_environment

MODEL = os.urandom(100_000)
FILES: dict[str, Path | bytes | None] = {
    "model.Q8_0.gguf": MODEL,
    "config.json": b"{}",
    "sub folder/ünï/notes.txt": b"notes",
    "README.md": b"---\nlicense: apache-2.0\ntags: [gguf]\ndate: 2025-01-02\n---\n# A model\n",
}


@pytest.fixture
def commit(hub: HubService) -> str:
    return hub.repository("org/name").commit(FILES)


@pytest.fixture
def api(hub: HubService) -> HfApi:
    return HfApi(endpoint=hub.address, token=False)


def run_hf(hub: HubService, home: Path, *arguments: str, token: str | None = None) -> subprocess.CompletedProcess[str]:
    hf = Path(sys.executable).with_name("hf")
    environment = hub_environment(hub, home, token=token)
    return subprocess.run([hf, *arguments], env=environment, capture_output=True, text=True, check=False)


def test_hf_downloads_a_repository_and_verifies_its_cache(hub: HubService, commit: str, tmp_path: Path) -> None:
    downloaded = run_hf(hub, tmp_path / "home", "download", "org/name")
    assert downloaded.returncode == 0, downloaded.stderr
    snapshot = tmp_path / "home/hub/models--org--name/snapshots" / commit
    assert {name: (snapshot / name).read_bytes() for name in FILES} == FILES
    verified = run_hf(hub, tmp_path / "home", "cache", "verify", "org/name")
    assert verified.returncode == 0, verified.stderr
    assert "Verified 4 file(s)" in verified.stdout


def test_hf_cache_verify_finds_a_bit_flipped_in_transfer(hub: HubService, commit: str, tmp_path: Path) -> None:
    hub.inject("flip", "org/name/model.Q8_0.gguf", offset=99_999, bit=7)
    assert run_hf(hub, tmp_path / "home", "download", "org/name").returncode == 0  # `hf download` compares sizes only
    verified = run_hf(hub, tmp_path / "home", "cache", "verify", "org/name")
    assert verified.returncode != 0
    assert "model.Q8_0.gguf" in verified.stdout + verified.stderr


def test_model_info_has_the_commit_the_card_and_the_files(hub: HubService, commit: str, api: HfApi) -> None:
    info = api.model_info("org/name")
    assert (info.id, info.author, info.sha, info.private, info.gated) == ("org/name", "org", commit, False, False)
    assert info.card_data is not None
    assert info.card_data.license == "apache-2.0"
    assert {"gguf", "license:apache-2.0"} <= set(info.tags or [])
    assert [(row.rfilename, row.size) for row in info.siblings or []] == [(name, None) for name in sorted(FILES)]


def test_model_info_with_blobs_has_sizes_ids_and_digests(hub: HubService, commit: str, api: HfApi) -> None:
    rows = {row.rfilename: row for row in api.model_info("org/name", files_metadata=True).siblings or []}
    assert (rows["config.json"].size, rows["config.json"].blob_id) == (2, blob_id(b"{}"))
    assert rows["config.json"].lfs is None
    lfs = rows["model.Q8_0.gguf"].lfs
    assert lfs is not None
    pointer = lfs_pointer(lfs.sha256, len(MODEL))
    assert rows["model.Q8_0.gguf"].blob_id == blob_id(pointer)
    assert (lfs.size, lfs.pointer_size) == (len(MODEL), len(pointer))


def test_model_info_has_only_the_expanded_properties(hub: HubService, commit: str, api: HfApi) -> None:
    info = api.model_info("org/name", expand=["sha", "gated"])
    assert (info.id, info.sha, info.gated, info.siblings, info.tags) == ("org/name", commit, False, None, None)


def test_a_repository_without_a_card_has_no_licence(hub: HubService, api: HfApi) -> None:
    for number, readme in enumerate(
        [b"# None\n", b"---\n: [\n---\n", b"---\njust text\n---\n", b"---\nnever closed\n", b"\xff"]
    ):
        hub.repository(f"org/{number}").commit({"README.md": readme})
        assert api.model_info(f"org/{number}").card_data is None


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub: HubService, commit: str, api: HfApi) -> None:
    repository = hub.repository("org/name")
    repository.tag("v1")
    later = repository.commit({"config.json": b'{"a": 1}'})
    other = repository.commit({"config.json": b'{"b": 1}'}, branch="feature/slash")
    for revision, expected in {"main": later, "v1": commit, commit: commit, "feature/slash": other}.items():
        assert api.model_info("org/name", revision=revision).sha == expected
        metadata = get_hf_file_metadata(
            hf_hub_url("org/name", "config.json", revision=revision, endpoint=hub.address), endpoint=hub.address
        )
        assert metadata.commit_hash == expected
    refs = api.list_repo_refs("org/name", include_pull_requests=True)
    assert {ref.name: ref.target_commit for ref in refs.branches} == {"main": later, "feature/slash": other}
    assert [(ref.name, ref.ref, ref.target_commit) for ref in refs.tags] == [("v1", "refs/tags/v1", commit)]
    assert [row.commit_id for row in api.list_repo_commits("org/name")] == [later, commit]


def test_the_tree_lists_folders_and_their_contents(hub: HubService, commit: str, api: HfApi) -> None:
    top = {entry.path: type(entry) for entry in api.list_repo_tree("org/name")}
    assert top == {name: RepoFile for name in FILES if "/" not in name} | {"sub folder": RepoFolder}
    below = [entry.path for entry in api.list_repo_tree("org/name", "sub folder", recursive=True)]
    assert below == ["sub folder/ünï", "sub folder/ünï/notes.txt"]
    with pytest.raises(RemoteEntryNotFoundError):
        list(api.list_repo_tree("org/name", "no-such-folder"))


def test_an_expanded_tree_has_the_last_commit_of_each_path(hub: HubService, commit: str, api: HfApi) -> None:
    hub.repository("org/name").commit({"sub folder/new.txt": b"new"}, message="Add a note\n\nAt length.")
    last = {
        entry.path: entry.last_commit.title
        for entry in api.list_repo_tree("org/name", recursive=True, expand=True)
        if entry.last_commit
    }
    assert last["config.json"] == last["sub folder/ünï"] == "Update files"
    assert last["sub folder"] == last["sub folder/new.txt"] == "Add a note"


@pytest.mark.parametrize(("count", "expand", "pages"), [(1001, False, 2), (120, True, 3)])
def test_a_long_tree_is_paginated(hub: HubService, api: HfApi, count: int, expand: bool, pages: int) -> None:
    names = [f"{number:04}.txt" for number in range(count)]
    hub.repository("org/long").commit(dict.fromkeys(names, b"x"))
    hub.reset_stats()
    assert [entry.path for entry in api.list_repo_tree("org/long", expand=expand)] == names
    assert hub.stats().requests == {"GET /api/models/org/long/tree/main": pages}


def test_a_page_of_a_branch_with_a_slash_links_to_the_next(hub: HubService, api: HfApi) -> None:
    names = [f"sub folder/{number:02}.txt" for number in range(60)]
    hub.repository("org/long").commit(dict.fromkeys(names, b"x"), branch="feature/slash")
    found = api.list_repo_tree("org/long", "sub folder", revision="feature/slash", expand=True)
    assert [entry.path for entry in found] == names


@pytest.mark.parametrize("name", ["what? 100% #1 [a]&b=c+d.gguf", "what? 100% #1 [a]&b=c+d.json", "~(ü).gguf"])
def test_a_file_with_an_odd_name_can_be_had(hub: HubService, name: str, tmp_path: Path) -> None:
    hub.repository("org/odd").commit({name: MODEL})
    path = hf_hub_download("org/odd", name, endpoint=hub.address, cache_dir=tmp_path, token=False)
    assert Path(path).read_bytes() == MODEL
    assert hub.stats().bytes_sent == {f"org/odd/{name}": len(MODEL)}


def test_paths_info_answers_for_what_is_there(hub: HubService, commit: str, api: HfApi) -> None:
    rows = api.get_paths_info("org/name", ["model.Q8_0.gguf", "sub folder", "nothing"], expand=True)
    assert [(row.path, type(row)) for row in rows] == [("model.Q8_0.gguf", RepoFile), ("sub folder", RepoFolder)]
    assert rows[0].last_commit is not None
    assert rows[0].last_commit.oid == commit


def test_file_metadata_of_a_large_file_comes_without_its_bytes(hub: HubService, commit: str) -> None:
    metadata = get_hf_file_metadata(hf_hub_url("org/name", "model.Q8_0.gguf", endpoint=hub.address))
    assert (metadata.commit_hash, metadata.size) == (commit, len(MODEL))
    assert metadata.etag is not None
    assert len(metadata.etag) == 64
    assert metadata.location.startswith(hub.bytes_address)
    assert hub.stats().total_bytes_sent == 0


def test_a_second_download_fetches_nothing(hub: HubService, commit: str, tmp_path: Path) -> None:
    snapshot_download("org/name", endpoint=hub.address, cache_dir=tmp_path / "cache", token=False)
    assert hub.stats().bytes_sent["org/name/model.Q8_0.gguf"] == len(MODEL)
    hub.reset_stats()
    snapshot_download("org/name", endpoint=hub.address, cache_dir=tmp_path / "cache", token=False)
    assert hub.stats().total_bytes_sent == 0
    assert hub.stats().total_requests > 0


def test_the_client_retries_a_truncated_download(hub: HubService, commit: str, tmp_path: Path) -> None:
    hub.inject("short", "*.gguf", after_bytes=30_000)
    path = hf_hub_download(
        "org/name", "model.Q8_0.gguf", endpoint=hub.address, cache_dir=tmp_path / "cache", token=False
    )
    assert Path(path).read_bytes() == MODEL


def test_hf_transfer_fetches_ranges_in_parallel(hub: HubService, commit: str, tmp_path: Path) -> None:
    url = hf_hub_url("org/name", "model.Q8_0.gguf", endpoint=hub.address)
    # In a separate process: hf_transfer holds the GIL while it waits, and would block the Hub's thread.
    script = "import hf_transfer, sys; hf_transfer.download(*sys.argv[1:], 4, 30_000, headers={})"
    subprocess.run([sys.executable, "-c", script, url, tmp_path / "model"], check=True, timeout=30)
    assert (tmp_path / "model").read_bytes() == MODEL
    assert sum(hub.stats().requests.values()) > 4


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl, from the system's packages")
def test_curl_resumes_a_partial_file(hub: HubService, commit: str, tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(MODEL[:60_000])
    url = hf_hub_url("org/name", "model.Q8_0.gguf", endpoint=hub.address)
    subprocess.run(["curl", "-sfL", "-C", "-", "-o", tmp_path / "model", url], check=True)
    assert (tmp_path / "model").read_bytes() == MODEL
    assert hub.stats().total_bytes_sent == len(MODEL) - 60_000


def test_a_gated_repository_has_public_metadata_and_protected_files(hub: HubService, tmp_path: Path) -> None:
    hub.repository("org/gated", gated=True).commit(FILES)
    hub.hub.grant("friend", "org/gated")
    hub.hub.grant("stranger")
    api = HfApi(endpoint=hub.address)
    assert api.model_info("org/gated", token=False).gated == "manual"
    for token, status in ((False, 401), ("stranger", 403)):
        for file in ("model.Q8_0.gguf", "config.json"):
            url = hf_hub_url("org/gated", file, endpoint=hub.address)
            with pytest.raises(GatedRepoError) as refused:
                get_hf_file_metadata(url, token=token)
            assert refused.value.response.status_code == status
        with pytest.raises(GatedRepoError):
            api.auth_check("org/gated", token=token)
    for file in ("model.Q8_0.gguf", "config.json"):
        path = hf_hub_download("org/gated", file, endpoint=hub.address, cache_dir=tmp_path / "cache", token="friend")
        assert Path(path).read_bytes() == FILES[file]
    assert hub.stats().leaked_tokens == 0
    refused_by_name = run_hf(hub, tmp_path / "home", "download", "org/gated", token="stranger")
    assert refused_by_name.returncode != 0
    assert run_hf(hub, tmp_path / "home", "download", "org/gated", token="friend").returncode == 0
    assert hub.stats().leaked_tokens == 0


def test_a_private_repository_and_an_unknown_one_look_the_same(hub: HubService, api: HfApi) -> None:
    hub.repository("org/secret", private=True).commit(FILES)
    hub.hub.grant("friend", "org/secret")
    hub.hub.grant("stranger")
    for name in ("org/secret", "org/nothing"):
        for token, status in ((False, 401), ("stranger", 404)):
            with pytest.raises(RepositoryNotFoundError) as refused:
                api.model_info(name, token=token)
            assert refused.value.response.status_code == status
    assert api.model_info("org/secret", token="friend").private
    with pytest.raises(HfHubHTTPError, match="Invalid credentials"):
        api.model_info("org/secret", token="nobody's")


def test_unknown_revisions_and_files_have_their_own_error_codes(
    hub: HubService, commit: str, api: HfApi, tmp_path: Path
) -> None:
    with pytest.raises(RevisionNotFoundError):
        api.model_info("org/name", revision="no-such-branch")
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download("org/name", "config.json", revision="0" * 40, endpoint=hub.address, cache_dir=tmp_path)
    with pytest.raises(RemoteEntryNotFoundError) as missing:
        hf_hub_download("org/name", "nothing.gguf", endpoint=hub.address, cache_dir=tmp_path, token=False)
    assert missing.value.response.headers["X-Repo-Commit"] == commit
    assert not api.file_exists("org/name", "nothing.gguf")
    assert not api.revision_exists("org/name", "no-such-branch")
