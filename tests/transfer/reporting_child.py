"""Fetch one file with the default options and print its progress, in a process that tests end.

`python -m tests.transfer.reporting_child URL SIZE SHA256 DIRECTORY RATE`. It prints a line of JSON for each report.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from paddock.model.names import Sha256
from paddock.model.source import Expected
from paddock.transfer.fetch import fetch
from paddock.transfer.options import Options
from paddock.transfer.progress import Progress
from tests.transfer.remote import Remote


def report(progress: Progress) -> None:
    print(json.dumps({"done": progress.done_bytes}), flush=True)


def main() -> None:
    url, size, sha256, directory, rate = sys.argv[1:]
    source = Remote(url, Expected(int(size), Sha256(sha256)))
    options = Options(limit_rate_bytes_per_s=int(rate))
    fetch(source, staging=Path(directory), options=options, on_progress=report)


if __name__ == "__main__":
    main()
