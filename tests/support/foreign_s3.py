"""S3 servers of other projects, started as they are installed: moto here, more of them behind `make torture`."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from infra.local.ports import LOOPBACK, start_on_free_ports
from infra.local.service import Service

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BUCKET = "models"
REGION = "us-east-1"
_READY_S = 30.0


@dataclass(frozen=True)
class ForeignS3:
    """A running server with an empty bucket."""

    endpoint: str
    access_key_id: str
    secret_access_key: str = field(repr=False)
    bucket: str = BUCKET

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of a client."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret_access_key,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
        }

    def client(self) -> S3Client:
        from boto3.session import Session
        from botocore.config import Config

        session = Session(self.access_key_id, self.secret_access_key, region_name=REGION)
        config = Config(s3={"addressing_style": "path"}, proxies={}, request_checksum_calculation="when_required")
        return session.client("s3", endpoint_url=self.endpoint, config=config)


@contextmanager
def start_foreign(
    name: str, command: Sequence[str], directory: Path, *, keys: tuple[str, str] = ("paddock", "a-secret-for-tests")
) -> Iterator[ForeignS3]:
    """Start a server with `command`, in which `{port}` and `{directory}` are replaced, and make its bucket."""
    key, secret = keys
    environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(directory)}

    def server(ports: list[int]) -> ForeignS3:
        return ForeignS3(f"http://{LOOPBACK}:{ports[0]}", key, secret)

    def launch(ports: list[int]) -> Service:
        words = [word.format(port=ports[0], directory=directory) for word in command]
        return Service(name, words, log=directory / f"{name}.log", environment=environment, directory=directory)

    service, ports = start_on_free_ports(launch, lambda ports, _: _has_bucket(server(ports)), deadline_s=_READY_S)
    try:
        yield server(ports)
    finally:
        service.stop()


def _has_bucket(server: ForeignS3) -> bool:
    from botocore.exceptions import BotoCoreError, ClientError

    client = server.client()
    try:
        with suppress(ClientError):  # it is there already
            client.create_bucket(Bucket=server.bucket)
        client.list_objects_v2(Bucket=server.bucket)
    except (BotoCoreError, ClientError):
        return False
    finally:
        client.close()
    return True


@contextmanager
def start_moto(directory: Path) -> Iterator[ForeignS3]:
    """Run moto's server, which keeps its objects in memory."""
    if importlib.util.find_spec("moto") is None:
        pytest.skip("no moto: install the extra `dev` (moto, flask, flask-cors)")
    command = [sys.executable, "-m", "moto.server", "-H", LOOPBACK, "-p", "{port}"]
    with start_foreign("moto", command, directory) as server:
        yield server
