from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from mypy_boto3_s3 import S3Client

from infra.local.s3 import S3Server
from paddock.store.remote import ObjectStore
from paddock.store.volume import Volume
from tests.support.directory_store.objects import DirectoryObjects
from tests.support.foreign_s3 import ForeignS3
from tests.support.limited_s3 import limited_s3
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


@pytest.fixture(scope="session")
def moto_client(moto: ForeignS3) -> S3Client:
    return moto.client()


@pytest.fixture
def moto_store(moto: ForeignS3, moto_client: S3Client) -> S3Store:
    """An empty store on moto's server."""
    return S3Store(f"s3://{moto.bucket}/{secrets.token_hex(6)}/deeper", client=moto_client)


@pytest.fixture(scope="session")
def complete_s3() -> Iterator[ForeignS3]:
    """The limited S3 server of the tests, with nothing left out."""
    with limited_s3() as server:
        yield ForeignS3(server.endpoint, "key", "secret")


@pytest.fixture(scope="session")
def complete_s3_client(complete_s3: ForeignS3) -> S3Client:
    return complete_s3.client()


@pytest.fixture
def complete_store(complete_s3: ForeignS3, complete_s3_client: S3Client) -> S3Store:
    """An empty store on the limited S3 server with nothing left out."""
    return S3Store(f"s3://{complete_s3.bucket}/{secrets.token_hex(6)}/deeper", client=complete_s3_client)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    directory = tmp_path / "scratch"
    directory.mkdir()
    return directory


@pytest.fixture
def directory_store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(DirectoryObjects(tmp_path / "bucket", label="directory://test/deeper", prefix="deeper"))


@pytest.fixture(params=["s3", "moto", "complete", "directory"])
def remote(request: pytest.FixtureRequest) -> ObjectStore:
    """An empty remote store."""
    store: ObjectStore = request.getfixturevalue(f"{request.param}_store")
    return store


@pytest.fixture(params=["volume", "s3_store", "moto_store", "directory_store"])
def store(request: pytest.FixtureRequest) -> Volume | ObjectStore:
    """An empty store of each kind."""
    store: Volume | ObjectStore = request.getfixturevalue(request.param)
    return store
