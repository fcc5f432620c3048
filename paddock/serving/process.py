"""The engine's server as a process that is started, asked and ended.

It has a directory of its own, which only our user enters: its socket, links to the model's open files, its template.
It has no token and no key in its environment, dies with us, and dumps no core. What it says on standard error is kept,
the first and the last of it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

from paddock.engine.process import BoundedLog, error_from_json
from paddock.errors import EngineCrashed, PaddockError
from paddock.serving.engine_main import ERROR_FILE, REFUSED
from paddock.serving.servers import SOCKET, EngineServer
from paddock.serving.spec import OpenModel
from paddock.settings import child_environment

_ROOT = Path(__file__).resolve().parents[2]
_POLL_S = 0.05
_ANSWER_S = 10.0
_END_S = 2.0
"""How long a process that was told to end may take: it has nothing left to answer by then."""


class EngineProcess:
    """One life of the engine. `start` returns when the model has spoken; after `stop` nothing of it is left."""

    def __init__(self, engine: EngineServer, model: OpenModel, home: Path) -> None:
        self._engine = engine
        self._model = model
        self._home = home
        self._log = BoundedLog()
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self.load_s = 0.0
        transport = httpx.AsyncHTTPTransport(uds=str(home / SOCKET))
        self._client = httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=_ANSWER_S)

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def start(self, *, timeout_s: float) -> None:
        """Raises EngineCrashed for one that dies or is not ready in time, and what it refuses the model with:
        IncompatibleModel, MalformedGguf, EngineOutOfMemory, ModelRejected."""
        began = time.monotonic()
        request = {
            "parent": os.getpid(),
            "network": self._engine.offer.on_gpu,  # a driver may want it; the engine itself listens on a file
            **self._engine.request(self._home, self._model.link_in(self._home)),
        }
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "paddock.serving.engine_main",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=self._model.descriptors,
            cwd=_ROOT,
            env=child_environment(GGML_NO_BACKTRACE="1", OPENBLAS_NUM_THREADS="1"),
            process_group=0,
        )
        self._reading = asyncio.create_task(self._read_log(self._process))
        try:
            async with asyncio.timeout(timeout_s):
                await self._hand_over(self._process, request)
                await self._await_ready()
        except TimeoutError:
            await self.stop(now=True)
            cure = "try again when the machine is less busy, or raise PADDOCK_ENGINE_TIMEOUT_S"
            raise EngineCrashed(
                f"the engine was not ready within {timeout_s:g} s ({self._words()})", cure=cure
            ) from None
        except BaseException:
            await self.stop(now=True)
            raise
        self.load_s = time.monotonic() - began

    async def wait(self) -> EngineCrashed:
        """Wait until it ends by itself, and say how."""
        assert self._process is not None  # noqa: S101 - it was started
        status = await self._process.wait()
        await self._log_ended()
        return self._crash(status)

    async def stalled_s(self) -> float:
        """As `Engine.stalled_s`."""
        return await self._engine.stalled_s(self._client)

    async def own_metrics(self) -> str:
        return await self._engine.own_metrics(self._client)

    def resident_bytes(self) -> tuple[int, int]:
        """What it has in memory: in all, and without what it maps from files. (0, 0) once it has ended."""
        if self._process is None or self._process.returncode is not None:
            return 0, 0
        found = {"VmRSS": 0, "RssAnon": 0, "RssShmem": 0}
        with suppress(OSError):
            for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in found:
                    found[name] = int(value.split()[0]) * 1024
        return found["VmRSS"], found["RssAnon"] + found["RssShmem"]

    def processor_s(self) -> float:
        """The processor time that it has used."""
        with suppress(psutil.Error):
            used = psutil.Process(self.pid).cpu_times()
            return float(used.user + used.system)
        return 0.0

    def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def stop(self, *, now: bool = False) -> None:
        """SIGTERM, and SIGKILL when that does not help; at once where there is no time."""
        process = self._process
        if process is not None:
            if process.returncode is None and not now:
                with suppress(ProcessLookupError):
                    process.terminate()
                with suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), _END_S)
            self.kill()
            await process.wait()
            await self._log_ended()
        await self._client.aclose()
        for name in self._model.names:
            (self._home / name).unlink(missing_ok=True)
        (self._home / SOCKET).unlink(missing_ok=True)

    async def _hand_over(self, process: asyncio.subprocess.Process, request: dict[str, Any]) -> None:
        assert process.stdin is not None  # noqa: S101 - says to the type checker what PIPE above means
        with suppress(BrokenPipeError, ConnectionResetError):  # one that died at once says why elsewhere
            process.stdin.write(json.dumps(request).encode())
            await process.stdin.drain()
        process.stdin.close()

    async def _await_ready(self) -> None:
        assert self._process is not None  # noqa: S101 - it was started
        ended = asyncio.create_task(self._process.wait())
        try:
            while not ended.done():
                with suppress(httpx.TransportError):
                    if (await self._client.get("/health")).status_code == httpx.codes.OK:
                        await self._engine.speak(self._client)
                        return
                await asyncio.wait({ended}, timeout=_POLL_S)
        except httpx.HTTPError as error:
            raise EngineCrashed(f"the engine is loaded and does not speak: {error}", cure="see its log") from None
        finally:
            ended.cancel()
        await self._log_ended()
        raise self._refusal(self._process.returncode or 0)

    def _refusal(self, status: int) -> PaddockError:
        if status == REFUSED:
            with suppress(OSError, ValueError):
                return error_from_json(json.loads((self._home / ERROR_FILE).read_text()))
        return self._crash(status)

    def _crash(self, status: int) -> EngineCrashed:
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        words = self._words()
        cure = self._engine.cure(words)
        if status == -signal.SIGKILL:
            cure = "the system does this when memory runs out: use a smaller quantization or context, or free memory"
        return EngineCrashed(f"the engine {how} ({words})", cure=cure)

    def _words(self) -> str:
        return self._engine.words(self._log.text())

    async def _read_log(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None  # noqa: S101 - says to the type checker what PIPE above means
        while data := await process.stderr.read(65536):
            self._log.add(data)

    async def _log_ended(self) -> None:
        if self._reading is not None:
            with suppress(TimeoutError):  # a grandchild may hold the pipe open
                await asyncio.wait_for(asyncio.shield(self._reading), 1.0)
