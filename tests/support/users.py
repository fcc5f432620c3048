"""Run snippets of Python as other users of the machine, each in one process that stays. Only root can start them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

GROUP = 62_000
_SERVE = """
import json, os, sys, traceback
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
names = {}
exec("from paddock.errors import *\\nfrom paddock.store.volume import Volume", names)
exec("from tests.support.stores import *", names)
for line in sys.stdin:
    out = StringIO()
    try:
        with redirect_stdout(out):
            exec(json.loads(line), names)
        answer = {"out": out.getvalue().strip(), "error": None}
    except Exception:
        answer = {"out": out.getvalue().strip(), "error": traceback.format_exc()}
    print(json.dumps(answer), flush=True)
"""


@dataclass(frozen=True, slots=True)
class _Answer:
    out: str
    error: str | None


class User:
    """A process of the user `uid`, with the group GROUP alone and umask 002. Snippets see what earlier ones defined."""

    def __init__(self, uid: int) -> None:
        self.uid = uid
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            user=uid,
            group=GROUP,
            extra_groups=[],
            umask=0o002,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"},
        )

    def do(self, snippet: str) -> str:
        """Run a snippet, and return what it printed. Raises AssertionError with the traceback if it fails."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(snippet) + "\n")
        self._process.stdin.flush()
        answer = _Answer(**json.loads(self._process.stdout.readline()))
        assert answer.error is None, answer.error
        return answer.out

    @contextmanager
    def umask(self, mask: int) -> Iterator[None]:
        """Set another umask until the block ends."""
        self.do(f"import os; os.umask({mask})")
        try:
            yield
        finally:
            self.do("import os; os.umask(0o002)")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()
