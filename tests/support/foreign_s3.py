"""S3 servers of other projects, started as they are installed: moto here, more of them behind `make torture`."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from infra.local.ports import LOOPBACK, start_on_free_ports
from infra.local.service import Service, ServiceEnded

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BUCKET = "models"
REGION = "us-east-1"
KEYS = ("paddock", "a-secret-for-tests")
_READY_S = 30.0


@dataclass(frozen=True)
class Program:
    """How a server is started and installed. In `command`, `{port}` and `{directory}` are replaced."""

    command: Sequence[str]
    install: str
    keys: tuple[str, str] = KEYS
    environment: Mapping[str, str] = field(default_factory=dict)


PROGRAMS = {
    "nanio": Program(
        ["nanio", "serve", "--host", LOOPBACK, "--port", "{port}", "--data-dir", "{directory}/data"],
        "pip install nanio",
        environment={"NANIO_ACCESS_KEY": KEYS[0], "NANIO_SECRET_KEY": KEYS[1]},
    ),
    "localbucket": Program(["localbucket", "--port", "{port}", "{directory}/data"], "pip install localbucket"),
    "s3rver": Program(
        ["s3rver", "--directory", "{directory}/data", "--address", LOOPBACK, "--port", "{port}", "--no-vhost-buckets"],
        "npm install --global s3rver",
        keys=("S3RVER", "S3RVER"),
    ),
    "rclone": Program(
        ["rclone", "serve", "s3", "--addr", f"{LOOPBACK}:{{port}}", "--auth-key", ",".join(KEYS), "{directory}/data"],
        "install rclone 1.65 or newer",
    ),
}
"""Servers that are installed apart from Paddock, and found on the PATH."""


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
def start_foreign(name: str, program: Program, directory: Path) -> Iterator[ForeignS3]:
    """Start a server with its data below `directory`, and make its bucket."""
    key, secret = program.keys
    environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(directory), **program.environment}
    (directory / "data").mkdir()

    def server(ports: list[int]) -> ForeignS3:
        return ForeignS3(f"http://{LOOPBACK}:{ports[0]}", key, secret)

    def launch(ports: list[int]) -> Service:
        words = [word.format(port=ports[0], directory=directory) for word in program.command]
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
    program = Program([sys.executable, "-m", "moto.server", "-H", LOOPBACK, "-p", "{port}"], "pip install moto[server]")
    with start_foreign("moto", program, directory) as server:
        yield server


@contextmanager
def start_installed(name: str, directory: Path) -> Iterator[ForeignS3]:
    """Run one of PROGRAMS; skip the test where it is not installed, or is too old to be a server."""
    program = PROGRAMS[name]
    if shutil.which(program.command[0]) is None:
        pytest.skip(f"the S3 server of another project {name} is not installed: {program.install}")
    with ExitStack() as stack:
        try:
            server = stack.enter_context(start_foreign(name, program, directory))
        except ServiceEnded:
            pytest.skip(f"the S3 server of another project {name} does not start: {program.install}")
        yield server
