"""The two servers that the engine comes with, made to look alike: how each is started with an offer, how it proves that
the model speaks, and how it tells that it is alive.

    llama-server             llama.cpp's own: `slots` requests at once
    llama-cpp-python         the Python package's: one request at a time, and no log-probabilities

Both listen on a UNIX socket, so that nobody but the front reaches them, and no port is fought over.
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
"""A scrape does not wait for a long batch."""
LLAMA_SERVER: Final = "llama-server"
LLAMA_CPP_PYTHON: Final = "llama-cpp-python"
_ERROR_LINE = re.compile(r"^[\d.]+ E (.+)$", re.MULTILINE)
"""A line of llama-server's log: the time since its start, the level, and what it says."""
ServerName = Literal["llama-server", "llama-cpp-python"]


class EngineServer(ABC):
    """One of the two, for an offer. `request` is what `launch` is told."""

    name: ServerName
    has_logprobs: bool

    def __init__(self, offer: ServeSpec) -> None:
        self.offer = offer

    @property
    @abstractmethod
    def slots(self) -> int:
        """How many requests it answers at once."""

    @abstractmethod
    def request(self, home: Path, model: Path) -> dict[str, Any]:
        """How `launch` starts it on `model`, with its own files in `home`."""

    @abstractmethod
    async def speak(self, client: httpx.AsyncClient) -> None:
        """Let the model say eight tokens. Raises ModelRejected."""

    @abstractmethod
    async def stalled_s(self, client: httpx.AsyncClient) -> float:
        """For how long it has been silent over a request, in seconds. Raises httpx.HTTPError when it does not
        answer."""

    async def own_metrics(self, _client: httpx.AsyncClient) -> str:
        """Its own metrics in Prometheus's text format, or "". Raises httpx.HTTPError where it has none to give."""
        return ""

    def words(self, log: str) -> str:
        """What in its log tells people why it ended."""
        return last_error_line(log)

    def cure(self, _words: str) -> str:
        """What to do when it ended with those words."""
        return "run `paddock inspect --deep` on the model, and look at the engine's last words"


class LlamaServer(EngineServer):
    name = LLAMA_SERVER
    has_logprobs = True

    def __init__(self, offer: ServeSpec, program: Path) -> None:
        super().__init__(offer)
        self._program = program

    @property
    def slots(self) -> int:
        return self.offer.parameters.n_seq_max

    def request(self, home: Path, model: Path) -> dict[str, Any]:
        template = home / TEMPLATE_FILE
        template.write_text(self.offer.chat.template, encoding="utf-8", errors="surrogatepass")
        arguments = [
            *("--model", str(model), "--alias", self.offer.name, "--host", str(home / SOCKET)),
            *("--jinja", "--chat-template-file", str(template)),
            *("--metrics", "--no-ui", "--offline", "--no-warmup"),
            # Nothing that would take more memory than was planned, or change what was.
            *("--fit", "off", "--cache-ram", "0", "--ctx-checkpoints", "0", "--no-kv-unified"),
            *arguments_of(self.offer.parameters),
        ]
        return {"program": str(self._program), "arguments": arguments}

    async def speak(self, client: httpx.AsyncClient) -> None:
        asked = {"prompt": "Hello", "n_predict": CANARY_TOKENS, "temperature": 0, "ignore_eos": True, "n_probs": 2}
        answer = await client.post("/completion", json=asked, timeout=None)
        answer.raise_for_status()
        said = answer.json().get("completion_probabilities") or []
        for position in range(CANARY_TOKENS):
            top = [one.get("logprob") for one in said[position]["top_logprobs"]] if position < len(said) else []
            problem = None
            if not top:
                problem = "gives no log-probabilities"
            elif not all(isinstance(one, int | float) and math.isfinite(one) for one in top):
                problem = "gives log-probabilities that are not finite"
            if problem:
                raise ModelRejected(
                    f"the model was loaded, and {problem} for token {position + 1} of {CANARY_TOKENS}", cure=CURE
                )
        if all(len({one["logprob"] for one in token["top_logprobs"]}) == 1 for token in said):
            raise ModelRejected("the model was loaded, and gives the same probability to every token", cure=CURE)

    async def stalled_s(self, client: httpx.AsyncClient) -> float:
        # This goes through the queue of its main loop, which `/health` does not: it is answered between two batches.
        (await client.get("/slots", timeout=None)).raise_for_status()
        return 0.0

    async def own_metrics(self, client: httpx.AsyncClient) -> str:
        answer = await client.get("/metrics", timeout=_METRICS_S)
        answer.raise_for_status()  # 501 where it was built or started without them, 503 while it loads
        return answer.text

    def cure(self, words: str) -> str:
        if "invalid argument" in words:
            return "that llama-server is of another version: `make llama-server` builds the engine's own"
        return super().cure(words)

    def words(self, log: str) -> str:
        first = _ERROR_LINE.search(log)  # those behind it only say that it follows
        return first[1][:300] if first else last_error_line(log)


class PythonServer(EngineServer):
    name = LLAMA_CPP_PYTHON
    has_logprobs = False
    slots = 1

    def request(self, home: Path, model: Path) -> dict[str, Any]:
        return {
            "home": str(home),
            "socket": SOCKET,
            "model": str(model),
            "name": self.offer.name,
            "template": self.offer.chat.template,
            "bos": self.offer.chat.bos,
            "parameters": self.offer.parameters.to_json(),
        }

    async def speak(self, client: httpx.AsyncClient) -> None:
        """It did, before it began to listen."""

    async def stalled_s(self, client: httpx.AsyncClient) -> float:
        answer = await client.get("/health")
        answer.raise_for_status()
        return float(answer.json()["stalled_s"])


def arguments_of(parameters: Parameters) -> list[str]:
    """The parameters as llama-server's arguments."""
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


def choose_server(asked: ServerName | None) -> Path | None:
    """llama-server's program, or None for llama-cpp-python's server: what was asked for, else llama-server where it is
    on the PATH. Raises NoSuchFile."""
    found = shutil.which(LLAMA_SERVER) if asked != LLAMA_CPP_PYTHON else None
    if asked == LLAMA_SERVER and found is None:
        raise NoSuchFile(
            "llama-server is not on the PATH", cure="run `make llama-server`, or serve with llama-cpp-python"
        )
    return Path(found).resolve() if found else None


def server_for(offer: ServeSpec, program: Path | None) -> EngineServer:
    return LlamaServer(offer, program) if program else PythonServer(offer)
