"""Inject every fault into every operation on a volume, in forked children of one process.

    python -m tests.support.fault_server BASE

reads requests from stdin, one a line, and answers each with an `Outcome` as JSON; `FaultServer` starts it, with the
library of `fault_shim` loaded. The modes of a request:

- `kill`: SIGKILL before, in and after each change that an operation makes;
- `error`: each call fails with each errno that it may fail with, once and then from there on; each read and write
  transfers half of its bytes;
- `power`: states that a power loss may leave.

After each fault the volume must be consistent, a process that was not killed must have succeeded or ended with an error
of Paddock, what is promoted must be as before or after the operation, and the operation must succeed when it is
repeated, take effect once, and transfer hardly anything twice.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from tests.support import fault_shim
from tests.support.fault_injection import INJECTED, Injector
from tests.support.fault_shim import Shim
from tests.support.transfer_operations import TRANSFERS, prepared
from tests.support.volume_checks import WRONG_BYTES
from tests.support.volume_operations import OPERATIONS

BY_NAME = {operation.name: operation for operation in (*OPERATIONS, *TRANSFERS)}


@dataclass
class Outcome:
    """The result of a request."""

    injected: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def wrong_bytes(self) -> int:
        return sum(WRONG_BYTES in problem for problem in self.problems)


def main() -> None:
    prepared()
    gc.collect()
    gc.freeze()  # else the first collection in each child copies every page of this process
    gc.disable()
    injector = Injector(Path(sys.argv[1]), Shim())
    for line in sys.stdin:
        request = json.loads(line)
        outcome = Outcome()
        for name in request.pop("operations"):
            for result in injector.inject(operation=BY_NAME[name], **request):
                if result == INJECTED:
                    outcome.injected += 1
                else:
                    outcome.problems.append(result)
        print(json.dumps(asdict(outcome)), flush=True)


class FaultServer:
    """The running program. A context manager."""

    def __init__(self, directory: Path, variables: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fault_server", str(directory / "base")],
            env={**variables, **fault_shim.environment(directory)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def inject(self, mode: str, operations: Sequence[str], *, stride: int, only: str = "") -> Outcome:
        """Inject every `stride`-th fault of a mode whose name has `only`; of `power`, check `stride` states of each
        operation."""
        assert self._process.stdin
        assert self._process.stdout
        request = {"mode": mode, "operations": list(operations), "stride": stride, "only": only}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Outcome(**json.loads(self._process.stdout.readline()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            assert self._process.stdin
            self._process.stdin.close()


if __name__ == "__main__":
    main()
