"""One engine process of the server: start it, query it, stop it.

The process gets a private directory, which holds its socket, links to the model's open files, and its chat template.
Its environment holds no token and no key; it dies with this process, and dumps no core. It can use these files, its
libraries and nothing else (`main`), and cannot look into this process. The beginning and end of its standard error are
kept.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

from paddock.confinement.parent import unreadable
from paddock.engine.process import BoundedLog
from paddock.errors import EngineCrashed, PaddockError
from paddock.serving.engine.llama_server import SOCKET, LlamaServer, engine_client
from paddock.serving.spec import OpenModel
from paddock.serving.threads import in_thread

_ROOT = Path(__file__).resolve().parents[3]
_POLL_S = 0.05
_ANSWER_S = 10.0
_STOP_S = 2.0
"""Time between SIGTERM and SIGKILL; by then the process has no request left to answer."""


class EngineProcess:
    """One run of llama-server.

    `start` returns once the canary has passed; `stop` ends the process and removes its files from `home`.
    """

    def __init__(self, server: LlamaServer, model: OpenModel, home: Path) -> None:
        self._server = server
        self._model = model
        self._home = home
        self._log = BoundedLog()
        self._process: asyncio.subprocess.Process | None = None
        self._log_reader: asyncio.Task[None] | None = None
        self._protection = ExitStack()
        self.load_s = 0.0
        self._client = engine_client(home, _ANSWER_S)

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def start(self, *, timeout_s: float) -> None:
        """Start the process, and wait until the model is loaded and has passed the canary.

        The files are checked before, so that the engine reads no others, and after, since they may have been changed
        while it read them. Raises CorruptFile if they were, EngineCrashed if it dies or is not ready within
        `timeout_s`, and ModelRejected if the canary fails.
        """
        began = time.monotonic()
        check_files = self._server.spec.check_files
        await in_thread(check_files)
        request = {
            "parent": os.getpid(),
            "home": str(self._home),
            **self._server.start_request(self._home, *self._model.link_into(self._home)),
        }
        try:
            self._protection.enter_context(unreadable())
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "paddock.serving.engine.main",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                pass_fds=self._model.descriptors,
                cwd=_ROOT,
                env={**self._server.program.environment(), "HOME": str(self._home)},  # else it looks for the user's own
                process_group=0,
            )
            self._log_reader = asyncio.create_task(self._read_log(self._process))
            async with asyncio.timeout(timeout_s):
                await self._send_request(self._process, request)
                await self._await_ready()
            await in_thread(check_files)
        except TimeoutError:
            await self.stop(now=True)
            cure = "try again when the machine is less busy, or raise PADDOCK_ENGINE_TIMEOUT_S"
            raise EngineCrashed(
                f"the engine was not ready within {timeout_s:g} s ({self._error_line()})", cure=cure
            ) from None
        except PaddockError:
            await self.stop(now=True)
            await in_thread(check_files)  # a file that was changed may be the reason
            raise
        except BaseException:
            await self.stop(now=True)
            raise
        self.load_s = time.monotonic() - began

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    def log_text(self) -> str:
        """Return the beginning and end of its standard error so far."""
        return self._log.text()

    async def wait(self) -> EngineCrashed:
        """Wait until the process ends by itself, and return the error that describes how."""
        assert self._process is not None  # noqa: S101 - it was started
        status = await self._process.wait()
        await self._wait_for_log()
        return self._crash(status)

    async def check_progress(self) -> bool:
        """See `LlamaServer.check_progress`."""
        return await self._server.check_progress(self._client)

    async def own_metrics(self) -> str:
        return await self._server.own_metrics(self._client)

    def resident_bytes(self) -> tuple[int, int]:
        """Return its resident memory: (total, without mapped files). (0, 0) once it has ended."""
        if self._process is None or self._process.returncode is not None:
            return 0, 0
        sizes = {"VmRSS": 0, "RssAnon": 0, "RssShmem": 0}
        with suppress(OSError):
            for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in sizes:
                    sizes[name] = int(value.split()[0]) * 1024
        return sizes["VmRSS"], sizes["RssAnon"] + sizes["RssShmem"]

    def processor_s(self) -> float:
        """Return the processor time that it has used, user and system."""
        with suppress(psutil.Error):
            used = psutil.Process(self.pid).cpu_times()
            return float(used.user + used.system)
        return 0.0

    def threads_s(self) -> tuple[float, float]:
        """Return the processor time of its main loop's thread, and of all others."""
        with suppress(psutil.Error):
            used = {thread.id: thread.user_time + thread.system_time for thread in psutil.Process(self.pid).threads()}
            main = float(used.pop(self.pid or 0, 0.0))
            return main, float(sum(used.values()))
        return 0.0, 0.0

    @property
    def computes_in_parallel(self) -> bool:
        """Whether it computes prompts with several threads. A step that takes long is always one of a prompt."""
        parameters = self._server.spec.parameters
        return (parameters.n_threads_batch or parameters.n_threads) > 1

    def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def stop(self, *, now: bool = False) -> None:
        """Stop the process with SIGTERM, then SIGKILL after two seconds; with `now`, with SIGKILL at once."""
        process = self._process
        if process is not None:
            if process.returncode is None and not now:
                with suppress(ProcessLookupError):
                    process.terminate()
                with suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), _STOP_S)
            self.kill()
            await process.wait()
            await self._wait_for_log()
        self._protection.close()
        await self._client.aclose()
        for name in self._model.names:
            (self._home / name).unlink(missing_ok=True)
        (self._home / SOCKET).unlink(missing_ok=True)

    async def _send_request(self, process: asyncio.subprocess.Process, request: dict[str, Any]) -> None:
        assert process.stdin is not None  # noqa: S101 - for the type checker: PIPE was passed
        with suppress(BrokenPipeError, ConnectionResetError):  # if the process died at once, `_await_ready` reports it
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
                        await self._server.check_canary(self._client)
                        return
                await asyncio.wait({ended}, timeout=_POLL_S)
        except httpx.HTTPError as error:
            raise EngineCrashed(
                f"the engine loaded the model but did not answer the canary request: {error}", cure="see its log"
            ) from None
        finally:
            ended.cancel()
        await self._wait_for_log()
        raise self._crash(self._process.returncode or 0)

    def _crash(self, status: int) -> EngineCrashed:
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        error_line = self._error_line()
        cure = self._server.cure(error_line)
        if status == -signal.SIGKILL:
            cure = "the system does this when memory runs out: use a smaller quantization or context, or free memory"
        return EngineCrashed(f"the engine {how} ({error_line})", cure=cure)

    def _error_line(self) -> str:
        return self._server.error_line(self._log.text())

    async def _read_log(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None  # noqa: S101 - for the type checker: PIPE was passed
        while data := await process.stderr.read(65536):
            self._log.add(data)

    async def _wait_for_log(self) -> None:
        if self._log_reader is not None:
            with suppress(TimeoutError):  # a grandchild may hold the pipe open
                await asyncio.wait_for(asyncio.shield(self._log_reader), 1.0)
