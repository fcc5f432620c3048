"""One process that fetches the files of a revision with Paddock's engine, so many of them at once.

`python -m tests.bench.fetch_all MODEL DIRECTORY AT_ONCE`, with HF_ENDPOINT set. It prints its peak memory and its
own time.
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
    known = settings.load()
    hub = Hub(known)
    listing = hub.listing(model)
    files = [file for file in listing.files if file.path.endswith(".gguf")]

    def bring(file: RepositoryFile) -> None:
        source = hub.file(model, listing.revision, file)
        staged = fetch(source, staging=directory / "partial", options=Options.of(known))
        assert staged is not None
        staged.path.rename(directory / file.path)
        staged.discard()

    started = time.monotonic()
    with ThreadPoolExecutor(int(sys.argv[3])) as pool:
        list(pool.map(bring, files))
    seconds = time.monotonic() - started
    print(json.dumps({"seconds": seconds, "peak_bytes": peak_bytes()}))


if __name__ == "__main__":
    main()
