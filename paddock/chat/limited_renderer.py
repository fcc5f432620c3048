"""Render one conversation after the other with one template, in a sandboxed subprocess that is kept between them.

The audit starts a subprocess for each template; a server renders each request, so that the start has to be paid once.
The subprocess limits the processor time of all its renderings together: it is replaced before that runs out, and after
a limit was exceeded.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Final

from paddock.chat.protocol import BATCH_CPU_S, STEP_CPU_S, RenderResult, RenderStatus
from paddock.chat.render import RenderRequest, TemplateProcess

_KEPT_S: Final = BATCH_CPU_S - 2 * STEP_CPU_S
"""Time of all renderings, after which the subprocess is replaced: it leaves the next one, and its analysis, enough."""


class LimitedRenderer:
    """One thread at a time renders; any other may `kill` a rendering that takes too long. `close` ends it."""

    def __init__(self, source: str, *, bos: str, eos: str) -> None:
        self._source = source
        self._bos, self._eos = bos, eos
        self._lock = threading.Lock()
        self._process: TemplateProcess | None = None
        self._used_s = 0.0
        self._is_killed = False

    def try_out(self, request: RenderRequest) -> RenderResult:
        """Render a conversation only to see whether it stays within the limits: a success has no text. `killed` where
        the template cannot be compiled. Raises EngineCrashed if the subprocess does not start."""
        process = self._running()
        if process is None:
            return RenderResult(RenderStatus.KILLED, "it was stopped")
        began = time.monotonic()
        result = process.render(request, with_text=False)
        self._used_s += time.monotonic() - began
        if result.status.is_limit or self._used_s > _KEPT_S:
            self._end()
        return result

    def kill(self) -> None:
        """End the rendering that is in progress. No other follows."""
        with self._lock:
            self._is_killed = True
            process = self._process
        if process is not None:
            process.kill()

    def close(self) -> None:
        self.kill()
        self._end()

    def _running(self) -> TemplateProcess | None:
        if self._process is None:
            process = TemplateProcess(self._source, bos=self._bos, eos=self._eos, wall_s=None)
            process.__enter__()
            with self._lock:
                self._process, self._used_s = process, 0.0
            process.analyse()
        with self._lock:
            return None if self._is_killed else self._process

    def _end(self) -> None:
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            with suppress(OSError):
                process.__exit__(None, None, None)
