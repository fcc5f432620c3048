"""Receive the engine's log messages, and extract facts from them, in the engine's child process.

A fact is matched only at the start of a message, where the engine's own words are: a file's metadata can hold a line
that looks like a log line, but it cannot start a message.
"""

from __future__ import annotations

import re
import sys
from typing import Any, ClassVar

import llama_cpp.llama_cpp as llama

from paddock.errors import ConflictingConfiguration, EngineOutOfMemory, IncompatibleModel, MalformedGguf, PaddockError

_INFO, _ERROR, _CONTINUED = 2, 4, 5  # enum ggml_log_level
_METADATA_DUMP = re.compile(r"llama_model_loader: - kv|llama_model_loader: Dumping metadata")
_UNKNOWN_ARCHITECTURE = re.compile(
    r"llama_model_load: error loading model: unknown model architecture: '(.*)'", re.DOTALL
)
_CONFLICT = re.compile(
    r"\Allama_init_from_model: ([KV] cache type .* does not divide .*|model does not support different K .*"
    r"|quantized V cache requires .*)"
)
_LOG_PREFIX = re.compile(
    r"(?:[A-Za-z_]\w*: )?(?:error loading model: )?(?:failed to initialize the context: )?(?:\w+: )?"
)
_OUT_OF_MEMORY = re.compile(
    r"bad_alloc|failed to allocate|unable to allocate|cannot allocate|out of memory|mmap failed", re.IGNORECASE
)
_MIB = r" *([0-9.]+) MiB"
_MEMORY_LINES = {
    "model": re.compile(rf"load_tensors: +(\S+) model buffer size ={_MIB}"),
    "kv": re.compile(rf"(llama_kv_cache\w*|llama_memory_\w+): size ={_MIB} \("),
    "state": re.compile(rf"\w+: +(\S+) DSV4 \S+ state buffer size ={_MIB}"),
    "output": re.compile(rf"llama_context: +(\S+) +output buffer size ={_MIB}"),
    "compute": re.compile(rf"sched_reserve: +(\S+) +compute buffer size ={_MIB}"),
}


class Log:
    """Receiver of the engine's log messages: copies each to standard error as one line, and extracts facts.

    `errors` are the first 20 error messages, each of at most 2,000 characters. `memory` lists (buffer, bytes) of each
    buffer that the engine reported, by kind (`model`, `kv`, `state`, `output`, `compute`).
    """

    _callback: ClassVar[Any] = None
    """The registered callback. It must stay referenced: the engine calls it until the process ends, on a GPU at each
    new batch."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.memory: dict[str, list[tuple[str, int]]] = {}
        self.forget_context()
        callback = llama.llama_log_callback(self._receive)
        llama.llama_log_set(callback, None)
        Log._callback = callback  # the previous callback is no longer called

    def _receive(self, level: int, text: bytes, _user_data: object) -> None:
        if level < _INFO or level == _CONTINUED:
            return
        message = text.decode(errors="replace").rstrip("\n")
        if _METADATA_DUMP.match(message):
            return
        if level == _ERROR and len(self.errors) < 20:  # the first ones name the cause
            self.errors.append(message[:2000])
        for kind, pattern in _MEMORY_LINES.items():
            match = pattern.match(message)
            if match and len(self.memory[kind]) < 64:
                self.memory[kind].append((match[1], round(float(match[2]) * 2**20)))
        sys.stderr.write(message.replace("\n", "\\n") + "\n")

    def forget_context(self) -> None:
        """Drop the memory figures of the last context; those of the model stay."""
        self.memory = {kind: self.memory.get(kind, []) if kind == "model" else [] for kind in _MEMORY_LINES}

    @property
    def names_unknown_architecture(self) -> bool:
        return any(_UNKNOWN_ARCHITECTURE.match(message) for message in self.errors)

    def refusal(self, what: str) -> PaddockError:
        """Build the error for a failed load or context from the errors that the engine has logged.

        `what` names what was being loaded or created, for the message.
        """
        for message in self.errors:
            unknown = _UNKNOWN_ARCHITECTURE.match(message)
            if unknown:
                return IncompatibleModel(
                    f"the installed engine says: unknown model architecture: {unknown[1][:80]!r}",
                    cure="install a newer llama-cpp-python, or choose another model",
                )
            conflict = _CONFLICT.search(message)
            if conflict:
                return ConflictingConfiguration(
                    f"the engine refuses these settings for this model: {conflict[1]}",
                    cure="use type_k and type_v f16, or another type for both",
                )
        reasons = [" ".join(_LOG_PREFIX.sub("", message, count=1).split()) for message in self.errors]
        reason = next((text for text in reasons if not text.startswith("failed to load model")), "it gives no reason")
        if any(_OUT_OF_MEMORY.search(message) for message in self.errors):
            return EngineOutOfMemory(
                f"the engine could not allocate what {what} needs: {reason}",
                cure="use a smaller quantization or context, or free memory",
            )
        return MalformedGguf(
            f"the engine refuses {what}: {reason}", cure="run `paddock inspect --deep` on it, or pull it again"
        )
