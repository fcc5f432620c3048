"""Fetch one file in a process that tests kill.

`python -m tests.transfer.child URL SIZE SHA256 DIRECTORY RATE`. It renames the file to
`DIRECTORY/published`, as a store publishes it, and prints the transferred and resumed bytes as JSON, or null.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from paddock.model.names import Sha256
from paddock.model.source import Expected
from paddock.transfer.fetch import fetch
from paddock.transfer.options import Options
from tests.transfer.remote import MIB, Remote


def main() -> None:
    url, size, sha256, directory, rate = sys.argv[1:]
    published = Path(directory) / "published"
    options = Options(connections=4, segment_bytes=MIB, stall_s=5, limit_rate_bytes_per_s=int(rate) or None)
    source = Remote(url, Expected(int(size), Sha256(sha256)))
    staged = fetch(source, staging=Path(directory) / "partial", options=options, is_published=published.exists)
    if staged is None:
        print(json.dumps(None))
        return
    staged.path.rename(published)
    staged.discard()
    print(json.dumps({"transferred": staged.transferred_bytes, "resumed": staged.resumed_bytes}))


if __name__ == "__main__":
    main()
