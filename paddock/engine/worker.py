"""Entry point of the engine's child process: read one request, run one job, write the answer, exit.

Started only by `paddock.engine.process`. The request, JSON on standard input, is `{job, arguments, parent, answer,
memory_limit_bytes}`; the answer, `{result}` or `{error: {kind, message, cure}}`, is written to the descriptor `answer`.
Before the native library is loaded the process hardens itself (`hardening`); jobs that read only a header and need no
device also lose network access where the system permits it.
"""

from __future__ import annotations

import json
import os
import sys
from types import ModuleType
from typing import Any

from paddock.engine.hardening import harden_process
from paddock.errors import PaddockError

_HEADER_JOBS = frozenset({"memory", "architectures"})


def main() -> int:
    request = json.loads(sys.stdin.buffer.read())
    harden_process(
        parent=request["parent"],
        memory_limit_bytes=request["memory_limit_bytes"],
        network=request["job"] not in _HEADER_JOBS,
    )
    # The package llama_cpp imports its high-level API, which no job uses: a third of the time until a job starts.
    sys.modules["llama_cpp.llama"] = ModuleType("llama_cpp.llama")
    from paddock.engine import jobs  # loads the native library, so it must come after the hardening

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
                "cure": "use a smaller quantization or context, or free memory",
            }
        }
    with os.fdopen(request["answer"], "wb") as out:
        out.write(json.dumps(answer).encode())
    return 0


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)  # skips the native library's destructors, which have crashed before
