from __future__ import annotations

import secrets
from pathlib import Path

import pytest
from mypy_boto3_s3 import S3Client

from infra.local.s3 import S3Server
from paddock.store.volume import Volume
from tests.support.stores import S3Store


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    made = Volume(tmp_path / "models")
    made.prepare()
    return made


@pytest.fixture(scope="session")
def client(s3: S3Server) -> S3Client:
    return s3.client()


@pytest.fixture
def s3_store(s3: S3Server, client: S3Client) -> S3Store:
    """An empty store of its own: a prefix that nobody else has."""
    return S3Store(f"s3://{s3.bucket}/{secrets.token_hex(6)}/deeper", client=client)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    made = tmp_path / "scratch"
    made.mkdir()
    return made


@pytest.fixture(params=["volume", "s3"])
def store(request: pytest.FixtureRequest) -> Volume | S3Store:
    made: Volume | S3Store = request.getfixturevalue("volume" if request.param == "volume" else "s3_store")
    return made
