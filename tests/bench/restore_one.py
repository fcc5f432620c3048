"""Restore one blob from S3, with Paddock onto a volume or with boto3 into a file, and print the time and peak memory.

`python -m tests.bench.restore_one paddock|boto3 SHA256 SIZE DIRECTORY`, with PADDOCK_S3_URI and the AWS variables set.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

from paddock import settings
from paddock.lifecycle.acquire.fetch import fetch_remote_file
from paddock.lifecycle.clients import connect
from paddock.model.acquired import PlannedFile
from paddock.model.artifact import RepositoryFile
from paddock.model.names import ModelName, parse_sha256
from paddock.model.source import Expected
from tests.bench.peak import peak_bytes


def main() -> None:
    client_name, digest, size, directory = sys.argv[1], parse_sha256(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    configured = settings.load()
    assert configured.s3_uri is not None
    began = time.monotonic()
    if client_name == "paddock":
        clients = connect(replace(configured, volume=directory))
        row = PlannedFile(RepositoryFile("model.bin", size, digest, None), Expected(size, digest), "s3")
        result = fetch_remote_file(clients, ModelName("org", "name"), row, segment_bytes=configured.segment_bytes)
        assert result.transferred_bytes == size
    else:
        from boto3.session import Session

        bucket, _, prefix = configured.s3_uri.removeprefix("s3://").partition("/")
        client = Session().client("s3")
        client.download_file(bucket, f"{prefix}/blobs/sha256/{digest}", str(directory / "model.bin"))
    seconds = time.monotonic() - began
    print(json.dumps({"seconds": seconds, "peak_bytes": peak_bytes()}))


if __name__ == "__main__":
    main()
