"""Entry point of the server's engine process: confine it, then become llama-server.

Started only by `paddock.serving.engine.process`. The request on standard input is `{parent, program, is_own, arguments,
home, user, reads, private, library_path}`, and for a limited process `memory_limit_bytes`. The model's files are those
that are open.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

from paddock.confinement import landlock, places
from paddock.confinement.landlock import Rule
from paddock.confinement.limits import limit_process
from paddock.confinement.policy import ConfinementPolicy, confine


def main() -> NoReturn:
    request = json.loads(sys.stdin.buffer.read())
    limit_process(parent=request["parent"], memory_limit_bytes=request.get("memory_limit_bytes"))
    confine(_policy(request), parent=request["parent"])
    program = request["program"]
    os.execv(program, [program, *request["arguments"]])  # noqa: S606 there is no shell on purpose


def _policy(request: dict[str, Any]) -> ConfinementPolicy:
    program, private = Path(request["program"]), request["private"]
    # Of another llama-server it is not known what it is built for.
    gpu = not request["is_own"] or places.is_for_gpus(str(program.parent))
    rules = [
        *places.program_rules(program, private=private),
        *places.library_rules(private=private, library_path=request["library_path"], gpu=gpu),
        *(Rule(path, landlock.READ) for path in request["reads"]),
    ]
    needed = (str(program), *places.named_libraries(request["library_path"]))
    return ConfinementPolicy(rules=tuple(rules), needed=needed, home=request["home"], user=request["user"], gpu=gpu)


if __name__ == "__main__":
    main()
