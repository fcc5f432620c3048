"""Main program of the child process that downloads with hf_transfer or huggingface_hub.

`paddock.transfer.backends` starts it.

The request is JSON on standard input, with `engine` (the backend), `path`, `parent`, and the arguments of that backend;
secrets are passed this way, and are in no argument and no environment variable. Reports go to standard output, one JSON
object a line: `{"came": N}` with the bytes received so far, and `{"error": ..., "final": ...}` on failure, without a
URL. The process ends when its parent does, gains no privileges, and reaches no other process.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from paddock.confinement import seccomp
from paddock.confinement.limits import limit_process

_CHUNK_BYTES = 1024 * 1024  # only complete chunks are reported, and a large one takes long on a slow connection
_CHUNK_RETRIES = 5
_REPORT_EVERY_S = 0.2
_URL = re.compile(r"\w+://\S+")
_REFUSED = re.compile(r"status client error \((?!408|425|429)\d+")


def main() -> None:
    request: dict[str, Any] = json.loads(sys.stdin.buffer.read())
    limit_process(parent=request["parent"])
    if seccomp.is_supported():
        with suppress(OSError):  # a container runtime may refuse it
            seccomp.filter_self(network=True)
    try:
        if request["engine"] == "hf_transfer":
            _download_with_hf_transfer(request)
        else:
            _download_with_huggingface_hub(request)
    except Exception as error:  # hf_transfer raises nothing more precise, and every error is reported
        message = _URL.sub("its URL", str(getattr(error, "message", error)).split("\n")[0])[:300]
        _report(error=message or type(error).__name__, final=_is_final(error))


def _download_with_hf_transfer(request: dict[str, Any]) -> None:
    import hf_transfer

    lock = threading.Lock()
    received = 0

    def on_chunk(chunk_bytes: int) -> None:
        nonlocal received
        with lock:
            received += chunk_bytes
            _report(came=received)

    connections = request["connections"]
    failures = min(3, connections - 1)  # in parallel; must be less than the connections, and retries need at least one
    hf_transfer.download(
        request["url"],
        request["path"],
        connections,
        _CHUNK_BYTES,
        parallel_failures=failures,
        max_retries=_CHUNK_RETRIES if failures else 0,
        headers=request["headers"],
        callback=on_chunk,
    )


def _download_with_huggingface_hub(request: dict[str, Any]) -> None:
    from paddock.hub import download_file
    from paddock.model.source import HubLocation
    from paddock.network import Network

    directory = Path(request["directory"])
    threading.Thread(target=_report_size, args=[directory], daemon=True).start()
    network = Network.from_json(request["network"])
    download_file(HubLocation(**request["place"]), directory, network=network).replace(request["path"])


def _report_size(directory: Path) -> None:
    """Report the bytes on disk: huggingface_hub shows its own progress only as a bar."""
    while True:
        time.sleep(_REPORT_EVERY_S)
        with suppress(OSError):  # a file was renamed meanwhile
            _report(came=on_disk_bytes(directory))


def on_disk_bytes(directory: Path) -> int:
    """Written bytes of all files below `directory`: holes are not counted, and neither are the blocks that a file
    system preallocates beyond the end of a growing file."""
    statuses = (path.stat() for path in directory.rglob("*") if path.is_file())
    return sum(min(status.st_blocks * 512, status.st_size) for status in statuses)


def _is_final(error: Exception) -> bool:
    from paddock.errors import PermanentError

    return isinstance(error, PermanentError) or bool(_REFUSED.search(str(error)))


def _report(**fields: object) -> None:
    os.write(1, json.dumps(fields).encode() + b"\n")  # one write, so that lines of two threads never mix


if __name__ == "__main__":
    main()
    os._exit(0)  # without waiting for the vendors' threads
