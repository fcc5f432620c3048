"""The engine's own process: confines itself, and becomes llama-server or runs llama-cpp-python's.

Started by `paddock.serving.process`, and by nobody else. The request on standard input is `{parent, network, program,
arguments}` for llama-server and `{parent, network, home, model, …}` for the other. An orderly refusal of the model is
left as `error.json` in `home`; anything else is told by how the process ends and by its standard error.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from paddock.engine.hardening import harden_process
from paddock.errors import PaddockError

REFUSED = 3
ERROR_FILE = "error.json"


def main() -> int:
    request = json.loads(sys.stdin.buffer.read())
    harden_process(parent=request["parent"], network=request["network"])
    program = request.get("program")
    if program is not None:
        os.execv(program, [program, *request["arguments"]])  # noqa: S606 there is no shell on purpose
    from paddock.serving import python_server  # loads the native library, so only now

    try:
        python_server.serve(request)
    except PaddockError as error:
        said = {"kind": type(error).__name__, "message": error.message, "cure": error.cure}
        Path(request["home"], ERROR_FILE).write_text(json.dumps(said))
        return REFUSED
    return 0


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)  # the native library's destructors have nothing left to say, and have crashed before
