"""Entry point of the server's engine process: harden it, then become llama-server or run llama-cpp-python's server.

Started only by `paddock.serving.process`. The request on standard input is `{parent, network, program, arguments}` for
llama-server and `{parent, network, home, model, …}` for llama-cpp-python's server. A PaddockError of the latter is
written to `error.json` in `home`, with exit status 3; any other failure shows in the exit status and standard error.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from paddock.engine.hardening import harden_process
from paddock.errors import PaddockError

ERROR_STATUS = 3
ERROR_FILE = "error.json"


def main() -> int:
    request = json.loads(sys.stdin.buffer.read())
    harden_process(parent=request["parent"], network=request["network"])
    program = request.get("program")
    if program is not None:
        os.execv(program, [program, *request["arguments"]])  # noqa: S606 there is no shell on purpose
    from paddock.serving import python_server  # loads the native library, so it must come after the hardening

    try:
        python_server.serve(request)
    except PaddockError as error:
        document = {"kind": type(error).__name__, "message": error.message, "cure": error.cure}
        Path(request["home"], ERROR_FILE).write_text(json.dumps(document))
        return ERROR_STATUS
    return 0


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)  # skips the native library's destructors, which have crashed before
