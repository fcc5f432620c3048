"""One process that brings an object onto a volume, or into a file, and prints how long it took.

`python -m tests.bench.restore_one paddock|boto3 SHA256 SIZE DIRECTORY`, with PADDOCK_S3_URI and the AWS variables set.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from paddock import settings
from paddock.lifecycle.acquire.fetch import fetch_remote_file
from paddock.lifecycle.clients import connect
from paddock.model.acquired import PlannedFile
from paddock.model.artifact import RepositoryFile
from paddock.model.names import parse_sha256
from paddock.model.source import Expected
from tests.bench.peak import peak_bytes


def main() -> None:
    how, digest, size, directory = sys.argv[1], parse_sha256(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    known = settings.load()
    assert known.s3_uri is not None
    began = time.monotonic()
    if how == "paddock":
        clients = connect(known.model_copy(update={"volume": directory}))
        row = PlannedFile(RepositoryFile("model.bin", size, digest, None), Expected(size, digest), "s3")
        got = fetch_remote_file(clients, row, segment_bytes=known.segment_bytes)
        assert got.transferred_bytes == size
    else:
        from boto3.session import Session

        bucket, _, prefix = known.s3_uri.removeprefix("s3://").partition("/")
        client = Session().client("s3")
        client.download_file(bucket, f"{prefix}/blobs/sha256/{digest}", str(directory / "model.bin"))
    seconds = time.monotonic() - began
    print(json.dumps({"seconds": seconds, "peak_bytes": peak_bytes()}))


if __name__ == "__main__":
    main()
