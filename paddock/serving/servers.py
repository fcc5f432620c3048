"""Start and check the engine's server: llama-server, or llama-cpp-python's, with one interface.

    llama-server             llama.cpp's own: `slots` requests at once
    llama-cpp-python         the Python package's: one request at a time, no log-probabilities

Both listen on a UNIX socket, so that only our own HTTP API reaches them and no port is needed.
"""

from __future__ import annotations

import math
import re
import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Final, Literal

import httpx

from paddock.chat.template import TEMPLATE_FILE
from paddock.engine.canary import CANARY_TOKENS, CURE
from paddock.engine.parameters import Parameters
from paddock.engine.process import last_error_line
from paddock.errors import ModelRejected, NoSuchFile
from paddock.serving.spec import ServeSpec

SOCKET = "engine.sock"
_METRICS_S = 2.0
"""Timeout: a scrape of our metrics must not wait for a long batch."""
LLAMA_SERVER: Final = "llama-server"
LLAMA_CPP_PYTHON: Final = "llama-cpp-python"
_ERROR_LINE = re.compile(r"^[\d.]+ E (.+)$", re.MULTILINE)
"""An error line of llama-server's log: time since its start, level, message."""
ServerName = Literal["llama-server", "llama-cpp-python"]


class EngineServer(ABC):
    """One of the two servers, configured for a spec."""

    name: ServerName
    has_logprobs: bool

    def __init__(self, spec: ServeSpec) -> None:
        self.spec = spec

    @property
    @abstractmethod
    def slots(self) -> int:
        """Number of requests that it answers at once."""

    @abstractmethod
    def start_request(self, home: Path, model: Path) -> dict[str, Any]:
        """Return the request for `engine_main` that starts the server on the file `model`, with `home` as its
        directory."""

    @abstractmethod
    async def check_canary(self, client: httpx.AsyncClient) -> None:
        """Generate eight tokens and check their probabilities. Raises ModelRejected."""

    @abstractmethod
    async def stalled_s(self, client: httpx.AsyncClient) -> float:
        """Return the seconds without progress on a request, 0 if there is none. Raises httpx.HTTPError if it does not
        answer."""

    async def own_metrics(self, _client: httpx.AsyncClient) -> str:
        """Return its own metrics in Prometheus's text format, or "". Raises httpx.HTTPError if it cannot give them."""
        return ""

    def error_line(self, log: str) -> str:
        """Return the line of its log that best explains why it ended."""
        return last_error_line(log)

    def cure(self, _error_line: str) -> str:
        """Return what to do after it ended with that error line."""
        return "run `paddock inspect --deep` on the model, and look at the engine's last log lines"


class LlamaServer(EngineServer):
    name = LLAMA_SERVER
    has_logprobs = True

    def __init__(self, spec: ServeSpec, program: Path) -> None:
        super().__init__(spec)
        self._program = program

    @property
    def slots(self) -> int:
        return self.spec.parameters.n_seq_max

    def start_request(self, home: Path, model: Path) -> dict[str, Any]:
        template = home / TEMPLATE_FILE
        template.write_text(self.spec.chat.template, encoding="utf-8", errors="surrogatepass")
        arguments = [
            *("--model", str(model), "--alias", self.spec.name, "--host", str(home / SOCKET)),
            *("--jinja", "--chat-template-file", str(template)),
            *("--metrics", "--no-ui", "--offline", "--no-warmup"),
            # No feature that uses more memory than planned, or changes planned parameters.
            *("--fit", "off", "--cache-ram", "0", "--ctx-checkpoints", "0", "--no-kv-unified"),
            *llama_server_arguments(self.spec.parameters),
        ]
        return {"program": str(self._program), "arguments": arguments}

    async def check_canary(self, client: httpx.AsyncClient) -> None:
        body = {"prompt": "Hello", "n_predict": CANARY_TOKENS, "temperature": 0, "ignore_eos": True, "n_probs": 2}
        answer = await client.post("/completion", json=body, timeout=None)
        answer.raise_for_status()
        tokens = answer.json().get("completion_probabilities") or []
        for position in range(CANARY_TOKENS):
            top = (
                [choice.get("logprob") for choice in tokens[position]["top_logprobs"]] if position < len(tokens) else []
            )
            problem = None
            if not top:
                problem = "gives no log-probabilities"
            elif not all(isinstance(logprob, int | float) and math.isfinite(logprob) for logprob in top):
                problem = "gives log-probabilities that are not finite"
            if problem:
                raise ModelRejected(
                    f"the model was loaded, but {problem} for token {position + 1} of {CANARY_TOKENS}", cure=CURE
                )
        if all(len({choice["logprob"] for choice in token["top_logprobs"]}) == 1 for token in tokens):
            raise ModelRejected("the model was loaded, but gives the same probability to every token", cure=CURE)

    async def stalled_s(self, client: httpx.AsyncClient) -> float:
        # Unlike `/health`, `/slots` goes through the queue of its main loop: it is answered between two batches.
        (await client.get("/slots", timeout=None)).raise_for_status()
        return 0.0

    async def own_metrics(self, client: httpx.AsyncClient) -> str:
        answer = await client.get("/metrics", timeout=_METRICS_S)
        answer.raise_for_status()  # 501 if it was built or started without metrics, 503 while it loads
        return answer.text

    def cure(self, error_line: str) -> str:
        if "invalid argument" in error_line:
            return (
                "that llama-server has another version than the engine: build the matching one with `make llama-server`"
            )
        return super().cure(error_line)

    def error_line(self, log: str) -> str:
        first = _ERROR_LINE.search(log)  # the later ones are consequences of the first
        return first[1][:300] if first else last_error_line(log)


class PythonServer(EngineServer):
    name = LLAMA_CPP_PYTHON
    has_logprobs = False
    slots = 1

    def start_request(self, home: Path, model: Path) -> dict[str, Any]:
        return {
            "home": str(home),
            "socket": SOCKET,
            "model": str(model),
            "name": self.spec.name,
            "template": self.spec.chat.template,
            "bos": self.spec.chat.bos,
            "parameters": self.spec.parameters.to_json(),
        }

    async def check_canary(self, client: httpx.AsyncClient) -> None:
        """Nothing to do: `python_server` runs the canary before it listens."""

    async def stalled_s(self, client: httpx.AsyncClient) -> float:
        answer = await client.get("/health")
        answer.raise_for_status()
        return float(answer.json()["stalled_s"])


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


def choose_server(requested: ServerName | None) -> Path | None:
    """Return the path of llama-server, or None to use llama-cpp-python's server.

    Without a request llama-server is chosen if it is on the PATH. Raises NoSuchFile if it is requested but absent.
    """
    found = shutil.which(LLAMA_SERVER) if requested != LLAMA_CPP_PYTHON else None
    if requested == LLAMA_SERVER and found is None:
        raise NoSuchFile(
            "llama-server is not on the PATH", cure="run `make llama-server`, or serve with llama-cpp-python"
        )
    return Path(found).resolve() if found else None


def server_for(spec: ServeSpec, program: Path | None) -> EngineServer:
    return LlamaServer(spec, program) if program else PythonServer(spec)
