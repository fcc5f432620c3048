"""Fetch the GGUF files of a revision in one process, with Paddock's own download backend.

`python -m tests.bench.fetch_all MODEL DIRECTORY PARALLEL_FILES`, with HF_ENDPOINT set, prints its time and its peak
memory as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from paddock import settings
from paddock.hub import Hub
from paddock.model.artifact import RepositoryFile
from paddock.model.names import ModelName
from paddock.transfer.fetch import fetch
from paddock.transfer.options import Options
from tests.bench.peak import peak_bytes


def main() -> None:
    model, directory = ModelName.parse(sys.argv[1]), Path(sys.argv[2])
    configured = settings.load()
    hub = Hub(configured)
    listing = hub.listing(model)
    files = [file for file in listing.files if file.path.endswith(".gguf")]

    def fetch_file(file: RepositoryFile) -> None:
        source = hub.file(model, listing.revision, file)
        staged = fetch(source, staging=directory / "partial", options=Options.of(configured))
        assert staged is not None
        staged.path.rename(directory / file.path)
        staged.discard()

    started = time.monotonic()
    with ThreadPoolExecutor(int(sys.argv[3])) as pool:
        list(pool.map(fetch_file, files))
    seconds = time.monotonic() - started
    print(json.dumps({"seconds": seconds, "peak_bytes": peak_bytes()}))


if __name__ == "__main__":
    main()
