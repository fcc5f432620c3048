"""Start and check llama-server, llama.cpp's own server.

By default it is the one that was built together with the installed engine and lies beside its libraries, so that the
plan and the server run the same code. It listens on a UNIX socket, so that only our own HTTP API reaches it and no port
is needed.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx

from paddock.chat.template import TEMPLATE_FILE
from paddock.engine.facts import library_directory
from paddock.engine.parameters import Parameters
from paddock.engine.process import confinement_settings, last_error_line
from paddock.errors import EngineTooOld, NoSuchFile
from paddock.gguf.kind import ModelKind
from paddock.serving.engine.canary import check_canary
from paddock.serving.engine.rendering_check import check_rendering
from paddock.serving.spec import ServeSpec
from paddock.settings import child_environment

_ROOT = Path(__file__).resolve().parents[3]
PROGRAM = "llama-server"
SOCKET = "engine.sock"
_METRICS_S = 2.0
"""Timeout: a scrape of our metrics must not wait for a long batch."""
_VERSION_S = 20.0
_ERROR_LINE = re.compile(r"^[\d.]+ E (.+)$", re.MULTILINE)
"""An error line of llama-server's log: time since its start, level, message."""
_OTHER_PROJECTOR = re.compile(r"mmproj|multimodal|clip", re.IGNORECASE)
"""Text of every error line about a projector that does not suit its model."""
_VERSION = re.compile(r"^version: (.+)$", re.MULTILINE)


def engine_client(home: Path, timeout: httpx.Timeout | float) -> httpx.AsyncClient:
    """Make a client to the llama-server whose socket is in the directory `home`. It keeps no connection: llama-server
    may close a kept one at the moment when it is used again."""
    transport = httpx.AsyncHTTPTransport(uds=str(home / SOCKET), limits=httpx.Limits(max_keepalive_connections=0))
    return httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=timeout)


class LlamaServerProgram:
    """The file of a llama-server. `is_own` says whether it was built with the installed engine."""

    def __init__(self, path: Path, *, is_own: bool) -> None:
        self.path = path
        self.is_own = is_own

    @cached_property
    def version(self) -> str:
        """The version that `--version` prints, or "unknown"."""
        return self._printed_version([str(self.path), "--version"])

    def confined_version(self) -> str:
        """Return the version that it prints when it is confined as it is to serve, or "unknown"."""
        request = {"parent": os.getpid(), "home": None, **self.start_request(["--version"])}
        return self._printed_version([sys.executable, "-m", "paddock.serving.engine.main"], json.dumps(request))

    def start_request(self, arguments: Sequence[str]) -> dict[str, Any]:
        """Return the request of `main` that starts it, without its parent and home.

        Another program than the engine's own may be a script that starts that one.
        """
        own = []
        with suppress(EngineTooOld):
            own = [library_directory()]
        request = {"program": str(self.path), "is_own": self.is_own, "arguments": list(arguments)}
        return {**request, **confinement_settings(*own)}

    def _printed_version(self, command: Sequence[str], request: str = "") -> str:
        try:
            done = subprocess.run(
                command,
                input=request,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_VERSION_S,
                check=False,
                cwd=_ROOT,
                env=self.environment(),
            )
        except (OSError, subprocess.TimeoutExpired):
            return "unknown"
        found = _VERSION.search(done.stdout + done.stderr)
        return found[1].strip()[:200] if found else "unknown"

    def environment(self) -> dict[str, str]:
        """Environment of its process. Its own directory comes first where libraries are looked for, since
        LD_LIBRARY_PATH has precedence over what the program itself names, and may name another llama.cpp."""
        inherited = child_environment(GGML_NO_BACKTRACE="1", OPENBLAS_NUM_THREADS="1")
        paths = [str(self.path.parent), *filter(None, [inherited.get("LD_LIBRARY_PATH")])]
        return {**inherited, "LD_LIBRARY_PATH": ":".join(paths)}


def find_program(setting: Path | None) -> LlamaServerProgram:
    """Return the llama-server that the setting PADDOCK_LLAMA_SERVER names, else the engine's own. Raises NoSuchFile."""
    if setting is None:
        own = library_directory() / PROGRAM
        if not own.exists():
            raise NoSuchFile(
                f"the installed engine has no {PROGRAM}: {own} is not there",
                cure=f"install it with `make setup`, or name another {PROGRAM} in PADDOCK_LLAMA_SERVER",
            )
        return LlamaServerProgram(own, is_own=True)
    found = shutil.which(setting)
    if found is None:
        raise NoSuchFile(
            f"PADDOCK_LLAMA_SERVER is {setting}, which is no program",
            cure=f"correct PADDOCK_LLAMA_SERVER, or unset it to use the engine's own {PROGRAM}",
        )
    return LlamaServerProgram(Path(found).resolve(), is_own=False)


class LlamaServer:
    """A llama-server, configured for a spec."""

    def __init__(self, spec: ServeSpec, program: LlamaServerProgram) -> None:
        self.spec = spec
        self.program = program

    @property
    def slots(self) -> int:
        """Number of requests that it answers at once."""
        return self.spec.parameters.n_seq_max

    def start_request(self, home: Path, model: Path, projector: Path | None = None) -> dict[str, Any]:
        """Return the request of `main`, without its parent and home, that starts it on these files, with `home` as its
        directory."""
        template = home / TEMPLATE_FILE
        template.write_text(self.spec.chat.template, encoding="utf-8", errors="surrogatepass")
        arguments = [
            *("--model", str(model), "--alias", self.spec.name, "--host", str(home / SOCKET)),
            *("--jinja", "--chat-template-file", str(template)),
            *("--metrics", "--no-ui", "--offline", "--no-warmup"),
            # No feature that uses more memory than planned, or changes planned parameters.
            *("--fit", "off", "--cache-ram", "0", "--ctx-checkpoints", "0", "--no-kv-unified"),
            *llama_server_arguments(self.spec.parameters),
            *_kind_arguments(self.spec),
            *(_projector_arguments(self.spec, projector) if projector else []),
        ]
        return self.program.start_request(arguments)

    async def check_canary(self, client: httpx.AsyncClient) -> None:
        """See `canary.check_canary`, and `rendering_check.check_rendering` for models that chat."""
        checks = [check_canary(client, self.spec.kind)]
        if self.spec.kind.generates_text and self.spec.chat.template:
            checks.append(check_rendering(client, self.spec.chat))
        running = [asyncio.ensure_future(check) for check in checks]
        try:
            await asyncio.gather(*running)
        finally:
            for check in running:
                check.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def check_progress(self, client: httpx.AsyncClient) -> bool:
        """Return as soon as its main loop answers: whether that has a request to compute. Raises httpx.HTTPError if it
        does not answer.

        Unlike `/health`, `/slots` goes through the queue of the main loop: it is answered between two batches.
        """
        answer = await client.get("/slots", timeout=None)
        answer.raise_for_status()
        try:
            return any(slot.get("is_processing", True) for slot in answer.json())
        except (ValueError, TypeError, AttributeError):  # of another version
            return True

    async def own_metrics(self, client: httpx.AsyncClient) -> str:
        """Return its own metrics in Prometheus's text format. Raises httpx.HTTPError if it cannot give them."""
        answer = await client.get("/metrics", timeout=_METRICS_S)
        answer.raise_for_status()  # 501 if it was built or started without metrics, 503 while it loads
        return answer.text

    def error_line(self, log: str) -> str:
        """Return the line of its log that best explains why it ended."""
        first = _ERROR_LINE.search(log)  # the later ones are consequences of the first
        return first[1][:300] if first else last_error_line(log)

    def cure(self, error_line: str) -> str:
        """Return what to do after it ended with that error line."""
        if "invalid argument" in error_line and not self.program.is_own:
            return f"{self.program.path} has another version than the engine: unset PADDOCK_LLAMA_SERVER"
        if _OTHER_PROJECTOR.search(error_line):
            return "serve the model's variant without a projector, or pull it with its own one"
        return "run `paddock inspect --deep` on the model, and look at the engine's last log lines"


def llama_server_arguments(parameters: Parameters) -> list[str]:
    """Convert the parameters to llama-server's command-line arguments."""
    load_mode = {(False, False): "none", (True, False): "mmap", (False, True): "mlock", (True, True): "mmap+mlock"}
    arguments = {
        "--ctx-size": parameters.n_ctx,
        "--parallel": parameters.n_seq_max,
        "--batch-size": parameters.n_batch,
        "--ubatch-size": parameters.n_ubatch,
        "--threads": parameters.n_threads,
        "--threads-batch": parameters.n_threads_batch or parameters.n_threads,
        "--gpu-layers": "all" if parameters.n_gpu_layers < 0 else parameters.n_gpu_layers,
        "--flash-attn": parameters.flash_attn,
        "--cache-type-k": parameters.type_k,
        "--cache-type-v": parameters.type_v,
        "--load-mode": load_mode[parameters.use_mmap, parameters.use_mlock],
    }
    if parameters.tensor_split:
        arguments["--tensor-split"] = ",".join(map(str, parameters.tensor_split))
    switches = [
        "--repack" if parameters.use_extra_bufts else "--no-repack",
        *(["--swa-full"] if parameters.swa_full else []),
    ]
    return [*(text for name, value in arguments.items() for text in (name, str(value))), *switches]


def _kind_arguments(spec: ServeSpec) -> list[str]:
    if spec.kind is ModelKind.EMBEDDING:
        return ["--embedding", *(["--pooling", spec.pooling] if spec.pooling else [])]
    return ["--reranking"] if spec.kind is ModelKind.RERANKER else []


def _projector_arguments(spec: ServeSpec, projector: Path) -> list[str]:
    arguments = ["--mmproj", str(projector)]
    arguments += [] if spec.on_gpu else ["--no-mmproj-offload"]
    return arguments + (["--image-max-tokens", str(spec.image_max_tokens)] if spec.image_max_tokens else [])
