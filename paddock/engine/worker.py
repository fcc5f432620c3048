"""The engine's own process: reads one request, does one job, answers, and ends.

Started by `paddock.engine.process`, and by nobody else. The request is `{job, arguments, parent, answer,
memory_limit_bytes}`; the answer `{result}` or `{error: {kind, message, cure}}`, on the descriptor `answer`. Before
the engine is loaded, the process gives up what a hostile file could use (`confine`), and, where the job needs no
device and the system allows it, the network.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from paddock.engine.confine import confine
from paddock.errors import PaddockError

_HEADER_JOBS = frozenset({"memory", "architectures"})


def main() -> int:
    request = json.loads(sys.stdin.buffer.read())
    confine(
        parent=request["parent"],
        memory_limit_bytes=request["memory_limit_bytes"],
        network=request["job"] not in _HEADER_JOBS,
    )
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


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)  # the native library's destructors have nothing left to say, and have crashed before
