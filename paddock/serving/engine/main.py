"""Entry point of the server's engine process: harden it, then become llama-server.

Started only by `paddock.serving.engine.process`. The request on standard input is `{parent, network, program,
arguments}`, and for a limited process `memory_limit_bytes`.
"""

from __future__ import annotations

import json
import os
import sys
from typing import NoReturn

from paddock.engine.hardening import harden_process


def main() -> NoReturn:
    request = json.loads(sys.stdin.buffer.read())
    harden_process(
        parent=request["parent"], memory_limit_bytes=request.get("memory_limit_bytes"), network=request["network"]
    )
    program = request["program"]
    os.execv(program, [program, *request["arguments"]])  # noqa: S606 there is no shell on purpose


if __name__ == "__main__":
    main()
