"""One served revision: its open files, its engine under supervision, the client to it, and the checks of its requests.

A server has one of these, and two while it switches to another revision (`revision_switch`). Strikes and usage belong
to a revision.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from paddock.serving.engine.llama_server import LlamaServer, LlamaServerProgram, engine_client
from paddock.serving.engine.process import EngineProcess
from paddock.serving.engine.supervisor import State, Supervisor, SupervisorLimits
from paddock.serving.observations import Observations, RunningAnswer
from paddock.serving.refusal import RequestRefused
from paddock.serving.requests.parse import EngineRequest
from paddock.serving.requests.tool_format import ToolFormat
from paddock.serving.spec import ServeSpec, open_model
from paddock.serving.threads import in_thread
from paddock.serving.trial.render_trial import RenderTrial
from paddock.serving.trial.request_trial import RequestTrial
from paddock.serving.trial.suspects import Suspects
from paddock.serving.usage import UsageCounter

_ENGINE_TIMEOUT = httpx.Timeout(10.0, read=None)  # no read timeout: the supervisor detects a hang


@dataclass(frozen=True, slots=True)
class EngineMemory:
    """Memory of the engine of a revision: `resident_bytes` with mapped files, and `held_bytes` without them."""

    spec: ServeSpec
    resident_bytes: int
    held_bytes: int


class ServedRevision:
    """A revision with its supervisor and client. The constructor opens the model's files, and starts nothing.

    `on_lost` is called when its engine is lost while it serves. `release` is called once, by `close`.

    Raises NoSuchFile, NoPermission, MissingShard.
    """

    def __init__(
        self,
        spec: ServeSpec,
        program: LlamaServerProgram,
        limits: SupervisorLimits,
        *,
        on_lost: Callable[[], None],
        release: Callable[[], None] = lambda: None,
    ) -> None:
        self.spec = spec
        self.program = program
        self.usage = UsageCounter()
        self.observations = Observations()
        self.suspects = Suspects(usual_stops=spec.chat.stop)
        self._on_lost = on_lost
        server = LlamaServer(spec, program)
        self.slots = server.slots
        with ExitStack() as resources:
            resources.callback(release)
            model = resources.enter_context(open_model(spec))
            self._descriptors = model.descriptors
            home = Path(resources.enter_context(TemporaryDirectory(prefix="paddock-", ignore_cleanup_errors=True)))
            self.supervisor = Supervisor(
                lambda: EngineProcess(server, model, home),
                limits=limits,
                planned_bytes=spec.memory.total_bytes,
                margin_bytes=spec.margin_bytes,
                on_lost=self._engine_lost,
            )
            self.trial = RequestTrial(spec, program, home / "trial")
            self.render_trial = RenderTrial(spec.chat, at_once=server.slots)
            self.client = engine_client(home, _ENGINE_TIMEOUT)
            self.tool_format = ToolFormat(self.client)
            self._resources = resources.pop_all()

    @property
    def inodes(self) -> frozenset[tuple[int, int]]:
        """(device, inode) of each open file: every start of the engine reads the same bytes. Empty once it is closed.
        May block for as long as the volume does."""
        try:
            return frozenset((one.st_dev, one.st_ino) for one in map(os.fstat, self._descriptors))
        except OSError:
            return frozenset()

    @property
    def label(self) -> str:
        """`<variant>@<revision>`, as answers name it."""
        return self.spec.label

    @property
    def is_ready(self) -> bool:
        return self.supervisor.state is State.READY

    @property
    def memory(self) -> EngineMemory:
        engine = self.supervisor.engine
        resident, held = engine.resident_bytes() if engine else (0, 0)
        return EngineMemory(self.spec, resident, held)

    async def check(self, request: EngineRequest) -> None:
        """Check that the engine can compile a request, and survives it as far as is known. Raises RequestRefused."""
        try:
            self.suspects.check(request)
        except RequestRefused as error:
            self.observations.refused(error, self.suspects.prompt_of(request), self.supervisor.restarts)
            raise
        await self.trial.check(request)

    def observe(self, arrived: float) -> AbstractContextManager[RunningAnswer]:
        """Observe the answer to a request that came at `arrived` (see `Observations.answer`)."""
        return self.observations.answer(self.supervisor.restarts, arrived)

    async def close(self) -> None:
        """Stop the engine and the trial engine, and release the files and the snapshot."""
        await self.supervisor.stop()
        await self.trial.close()
        await self.render_trial.close()
        await self.client.aclose()
        await in_thread(self.close_files)

    def _engine_lost(self) -> bool:
        self._on_lost()
        return self.suspects.engine_lost()

    def close_files(self) -> None:
        """Release the files and the snapshot of a revision whose engine is not running."""
        self._descriptors = ()  # their numbers are given to other files
        self._resources.close()
