from __future__ import annotations

import secrets
from pathlib import Path

import pytest
from mypy_boto3_s3 import S3Client

from infra.local.s3 import S3Server
from paddock.store.remote import ObjectStore
from paddock.store.volume import Volume
from tests.support.directory_store.objects import DirectoryObjects
from tests.support.stores import S3Store


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    volume = Volume(tmp_path / "models")
    volume.prepare()
    return volume


@pytest.fixture(scope="session")
def client(s3: S3Server) -> S3Client:
    return s3.client()


@pytest.fixture
def s3_store(s3: S3Server, client: S3Client) -> S3Store:
    """An empty store, below a prefix of its own."""
    return S3Store(f"s3://{s3.bucket}/{secrets.token_hex(6)}/deeper", client=client)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    directory = tmp_path / "scratch"
    directory.mkdir()
    return directory


@pytest.fixture
def directory_store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(DirectoryObjects(tmp_path / "bucket", label="directory://test/deeper", prefix="deeper"))


@pytest.fixture(params=["s3", "directory"])
def remote(request: pytest.FixtureRequest) -> ObjectStore:
    """An empty remote store."""
    store: ObjectStore = request.getfixturevalue(f"{request.param}_store")
    return store


@pytest.fixture(params=["volume", "s3_store", "directory_store"])
def store(request: pytest.FixtureRequest) -> Volume | ObjectStore:
    """An empty store of each kind."""
    store: Volume | ObjectStore = request.getfixturevalue(request.param)
    return store
