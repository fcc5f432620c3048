"""Entry point of the engine's child process: read one request, confine itself, run one job, write the answer, exit.

Started only by `paddock.engine.process`. The request, JSON on standard input, is `{job, arguments, parent, answer,
memory_limit_bytes, user, reads, writes, private, library_path}`; the answer, `{result}` or `{error: {kind, message,
cure}}`, is written to the descriptor `answer`.

The modules and libraries of the job are loaded first, since they may lie where the unprivileged user may not read. Then
the process confines itself (`paddock.confinement`), and only then the job looks at a model.

The job `confinement` loads no model: its result is what the process was left with.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from paddock.confinement import landlock, places
from paddock.confinement.landlock import Rule
from paddock.confinement.limits import limit_process
from paddock.confinement.policy import Confinement, ConfinementPolicy, confine
from paddock.errors import PaddockError

CONFINEMENT = "confinement"


def main() -> int:
    request = json.loads(sys.stdin.buffer.read())
    limit_process(parent=request["parent"], memory_limit_bytes=request["memory_limit_bytes"])
    # The package llama_cpp imports its high-level API, which no job uses: a third of the time until a job starts.
    sys.modules["llama_cpp.llama"] = ModuleType("llama_cpp.llama")
    from paddock.engine import jobs

    jobs.load_modules(request["job"])
    confinement = confine(_policy(request, Path(sys.modules["llama_cpp"].__path__[0], "lib")), parent=request["parent"])

    answer: dict[str, Any]
    try:
        answer = {"result": _run(request, confinement, jobs)}
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


def _run(request: dict[str, Any], confinement: Confinement, jobs: ModuleType) -> dict[str, Any]:
    if request["job"] == CONFINEMENT:
        return confinement.to_json()
    result: dict[str, Any] = jobs.JOBS[request["job"]](request["arguments"])
    return result


def _policy(request: dict[str, Any], libraries: Path) -> ConfinementPolicy:
    gpu, private = places.is_for_gpus(str(libraries)), request["private"]
    rules = [
        Rule(str(libraries), landlock.READ),
        *places.python_rules(private=private),
        *places.library_rules(private=private, library_path=request["library_path"], gpu=gpu),
        *(Rule(path, landlock.READ) for path in request["reads"]),
        *(Rule(path, landlock.WRITE) for path in request["writes"]),
    ]
    user = None if request["writes"] else request["user"]
    needed = places.named_libraries(request["library_path"])
    return ConfinementPolicy(rules=tuple(rules), needed=needed, user=user, gpu=gpu)


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)  # skips the native library's destructors, which have crashed before
