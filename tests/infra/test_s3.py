"""The local S3 server: the guarantees of S3 that Paddock relies on, through boto3 and over restarts."""

from __future__ import annotations

import json
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from botocore.exceptions import ClientError

from infra.local.s3 import S3Server


def sockets_of(*servers: S3Server) -> list[Path]:
    """The sockets that servers left: SeaweedFS creates one for each of its ports."""
    ports = [port for server in servers for port in server.ports]
    return [path for port in ports for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock")]


def put(server: S3Server, key: str, body: bytes) -> str:
    with closing(server.client()) as client:
        try:
            client.put_object(Bucket=server.bucket, Key=key, Body=body, IfNoneMatch="*")
        except ClientError as error:
            return str(error.response["Error"]["Code"])
    return "created"


def test_of_many_simultaneous_creations_of_an_object_one_succeeds(s3: S3Server) -> None:
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda number: put(s3, "race", b"%d" % number), range(8)))
    assert sorted(results) == ["PreconditionFailed"] * 7 + ["created"]
    with closing(s3.client()) as client:
        assert client.get_object(Bucket=s3.bucket, Key="race")["Body"].read() == b"%d" % results.index("created")


def test_a_wrong_key_is_refused(s3: S3Server) -> None:
    unauthorized = S3Server(s3.endpoint, s3.access_key_id, "wrong", s3.service, s3.ports)
    assert put(unauthorized, "key", b"") == "SignatureDoesNotMatch"


def test_the_secret_is_not_in_the_repr(s3: S3Server) -> None:
    assert s3.secret_access_key not in repr(s3)


def test_objects_keys_and_endpoint_survive_a_restart(tmp_path: Path) -> None:
    with S3Server.start(tmp_path) as first:
        assert put(first, "kept", b"as it was") == "created"
        assert sockets_of(first)
    assert (tmp_path / "s3.json").stat().st_mode & 0o777 == 0o600
    with S3Server.start(tmp_path) as second, closing(second.client()) as client:
        assert second.endpoint == first.endpoint
        assert second.secret_access_key == first.secret_access_key
        assert client.get_object(Bucket=second.bucket, Key="kept")["Body"].read() == b"as it was"
    assert sockets_of(first, second) == []


def test_objects_survive_a_kill_and_a_move_to_other_ports(tmp_path: Path) -> None:
    with S3Server.start(tmp_path) as first:
        assert put(first, "kept", b"as it was") == "created"
        os.kill(first.service.pid, 9)
        first.service.wait(10)
    ports = json.loads((tmp_path / "s3.json").read_text())["ports"]
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", ports[0]))
        taken.listen()
        with S3Server.start(tmp_path) as second, closing(second.client()) as client:
            assert second.endpoint != first.endpoint
            assert client.get_object(Bucket=second.bucket, Key="kept")["Body"].read() == b"as it was"
    assert sockets_of(first, second) == []
