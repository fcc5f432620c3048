"""The engine's own process: reads one request, does one job, answers, and ends.

Started by `paddock.engine.process`, and by nobody else. The request is `{job, arguments, parent, answer,
memory_limit_bytes}`; the answer `{result}` or `{error: {kind, message, cure}}`, on the descriptor `answer`. Before
the engine is loaded, the process gives up what a hostile file could use: core dumps, new privileges, memory over its
limit, and, where the job needs no device and the system allows it, the network.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from typing import Any

from paddock.errors import PaddockError

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_HEADER_JOBS = frozenset({"memory", "architectures"})


def main() -> int:
    request = json.loads(sys.stdin.buffer.read())
    _restrict(request)
    from paddock.engine import jobs  # loads the native library, so only now

    answer: dict[str, Any]
    try:
        answer = {"result": jobs.JOBS[request["job"]](request["arguments"])}
    except PaddockError as error:
        answer = {"error": {"kind": type(error).__name__, "message": error.message, "cure": error.cure}}
    except MemoryError:
        answer = {
            "error": {
                "kind": "EngineOutOfMemory",
                "message": "the engine's process ran out of memory",
                "cure": "raise its limit",
            }
        }
    with os.fdopen(request["answer"], "wb") as out:
        out.write(json.dumps(answer).encode())
    return 0


def _restrict(request: dict[str, Any]) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limit = request["memory_limit_bytes"]
    if limit is not None:
        # Not the address space: a mapped model and a GPU driver's reservations take far more of it than of memory.
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if request["job"] in _HEADER_JOBS:
            libc.unshare(
                _CLONE_NEWNET if os.geteuid() == 0 else _CLONE_NEWUSER | _CLONE_NEWNET
            )  # refused in many containers
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # last: a change of credentials resets it
    if os.getppid() != request["parent"]:
        os._exit(1)  # the parent died before the line above


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)  # the native library's destructors have nothing left to say, and have crashed before
