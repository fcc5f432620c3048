"""The process that another engine moves bytes in. Started by `paddock.transfer.backends`, and by nobody else.

The request is JSON on standard input, with `engine`, `path`, `parent`, and what that engine needs to know; secrets
come this way, and are in no argument and no environment. Reports go to standard output, a line of JSON each:
`{"came": N}` while bytes come, and `{"error": ..., "final": ...}` when they do not, without an address. It dies with
its parent.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1
_CHUNK_BYTES = 1024 * 1024  # it tells of whole ones alone, and slow lines take long for large ones
_TRIES_OF_A_CHUNK = 5
_EVERY_S = 0.2
_ADDRESS = re.compile(r"\w+://\S+")
_REFUSED = re.compile(r"status client error \((?!408|425|429)\d+")


def main() -> None:
    request: dict[str, Any] = json.loads(sys.stdin.buffer.read())
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != request["parent"]:
        os._exit(1)  # the parent died before the line above
    try:
        if request["engine"] == "hf_transfer":
            _by_hf_transfer(request)
        else:
            _by_huggingface_hub(request)
    except Exception as error:  # hf_transfer raises nothing more precise; whatever it is, who asked is told
        said = _ADDRESS.sub("its address", str(getattr(error, "message", error)).split("\n")[0])[:300]
        _report(error=said or type(error).__name__, final=_is_final(error))


def _by_hf_transfer(request: dict[str, Any]) -> None:
    import hf_transfer

    lock = threading.Lock()
    came = 0

    def count(chunk_bytes: int) -> None:
        nonlocal came
        with lock:
            came += chunk_bytes
            _report(came=came)

    connections = request["connections"]
    failures = min(3, connections - 1)  # at once; it takes no tries without any, and needs a file more than these
    hf_transfer.download(
        request["url"],
        request["path"],
        connections,
        _CHUNK_BYTES,
        parallel_failures=failures,
        max_retries=_TRIES_OF_A_CHUNK if failures else 0,
        headers=request["headers"],
        callback=count,
    )


def _by_huggingface_hub(request: dict[str, Any]) -> None:
    from paddock.hub import download
    from paddock.model.source import HubLocation

    directory = Path(request["directory"])
    threading.Thread(target=_watch, args=[directory], daemon=True).start()
    download(HubLocation(**request["place"]), directory).replace(request["path"])


def _watch(directory: Path) -> None:
    """Report how much is on the disk: huggingface_hub's own progress is drawn for people."""
    while True:
        time.sleep(_EVERY_S)
        with suppress(OSError):  # a file that has its next name meanwhile
            _report(came=on_disk_bytes(directory))


def on_disk_bytes(directory: Path) -> int:
    """What is there of the files: less than their sizes where they have holes, and never the room beyond their ends
    that a file system lays aside while they grow."""
    found = (path.stat() for path in directory.rglob("*") if path.is_file())
    return sum(min(status.st_blocks * 512, status.st_size) for status in found)


def _is_final(error: Exception) -> bool:
    from paddock.errors import PermanentError

    return isinstance(error, PermanentError) or bool(_REFUSED.search(str(error)))


def _report(**said: object) -> None:
    os.write(1, json.dumps(said).encode() + b"\n")  # one write: whole, from whichever thread


if __name__ == "__main__":
    main()
    os._exit(0)  # not waiting for the vendors' threads
