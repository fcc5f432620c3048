"""llama.cpp through its C interface, for the code that runs in the engine's own process.

A `Log` hears each message of the engine as it is said. Facts are read there, from the start of a message whose first
words are the engine's own: a file's metadata can hold a line that looks like one, but cannot begin a message. A
`Session` is a model and a context.

Only `paddock.engine.worker` imports this: importing it loads the native library.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

import llama_cpp.llama_cpp as llama
import numpy as np

from paddock.engine.parameters import Parameters
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
_SPEAKER = re.compile(r"(?:[A-Za-z_]\w*: )?(?:error loading model: )?(?:failed to initialize the context: )?(?:\w+: )?")
_NO_MEMORY = re.compile(
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
_LOAD_MODES = {(False, False): 0, (True, False): 1, (False, True): 2, (True, True): 3}
"""enum llama_load_mode, by (mapped, locked in memory)."""
_LOAD_WITHOUT_MMAP = _LOAD_MODES[False, False]
_FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}
_GGML_TYPES = {
    "f32": 0,
    "f16": 1,
    "q4_0": 2,
    "q4_1": 3,
    "q5_0": 6,
    "q5_1": 7,
    "q8_0": 8,
    "iq4_nl": 20,
    "bf16": 30,
}  # enum ggml_type


class Log:
    """What the engine says: passed on to standard error, a line for each message, and read for facts."""

    _callback: ClassVar[Any] = None
    """The engine calls it for as long as the process lives: on a GPU it has something to say at each new batch."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.memory: dict[str, list[tuple[str, int]]] = {}
        self.forget_context()
        callback = llama.llama_log_callback(self._heard)
        llama.llama_log_set(callback, None)
        Log._callback = callback  # the one before is not called from here on

    def _heard(self, level: int, text: bytes, _user_data: object) -> None:
        if level < _INFO or level == _CONTINUED:
            return
        message = text.decode(errors="replace").rstrip("\n")
        if _METADATA_DUMP.match(message):
            return
        if level == _ERROR and len(self.errors) < 20:  # the first ones tell why
            self.errors.append(message[:2000])
        for kind, pattern in _MEMORY_LINES.items():
            match = pattern.match(message)
            if match and len(self.memory[kind]) < 64:
                self.memory[kind].append((match[1], round(float(match[2]) * 2**20)))
        sys.stderr.write(message.replace("\n", "\\n") + "\n")

    def forget_context(self) -> None:
        """Drop what was said of a context's memory; what was said of the model's stays."""
        self.memory = {kind: self.memory.get(kind, []) if kind == "model" else [] for kind in _MEMORY_LINES}

    def refusal(self, what: str) -> PaddockError:
        """Why the engine refused to load or to make a context, from the errors that it has logged."""
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
        reasons = [" ".join(_SPEAKER.sub("", message, count=1).split()) for message in self.errors]
        reason = next((one for one in reasons if not one.startswith("failed to load model")), "it gives no reason")
        if any(_NO_MEMORY.search(message) for message in self.errors):
            return EngineOutOfMemory(
                f"the engine could not allocate what {what} needs: {reason}",
                cure="use a smaller quantization or context, or free memory",
            )
        return MalformedGguf(
            f"the engine refuses {what}: {reason}", cure="run `paddock inspect --deep` on it, or pull it again"
        )


class Session:
    """A model, and a context for it.

    `hollow` is for a file whose tensor data is not there: sizes are computed, and nothing is allocated or read.

    Raises IncompatibleModel, MalformedGguf, EngineOutOfMemory, ConflictingConfiguration.
    """

    def __init__(self, paths: Sequence[str], parameters: Parameters, log: Log, *, hollow: bool = False) -> None:
        self._model: Any = None
        self._context: Any = None
        llama.llama_backend_init()
        names = (ctypes.c_char_p * len(paths))(*[path.encode() for path in paths])
        self._model = llama.llama_model_load_from_splits(names, len(paths), _model_params(parameters, hollow=hollow))
        if not self._model:
            raise log.refusal("the file")
        if not llama.llama_model_has_decoder(self._model) or llama.llama_model_has_encoder(self._model):
            self.close()
            raise ConflictingConfiguration(
                "the model is no decoder: it embeds or encodes, and generates no text by itself",
                cure="choose a language model",
            )
        self.vocabulary: Any = llama.llama_model_get_vocab(self._model)
        self.vocab_size: int = llama.llama_vocab_n_tokens(self.vocabulary)
        self.bos: int = llama.llama_vocab_bos(self.vocabulary)
        self.weights_bytes: int = llama.llama_model_size(self._model)
        try:
            self.renew(parameters, log)
        except PaddockError:
            self.close()
            raise

    def renew(self, parameters: Parameters, log: Log) -> None:
        """Another context for the same model, empty, in the place of the one there was. What of `parameters` concerns
        the load is not looked at. Raises as the constructor does; then there is none until the next call."""
        if self._context:
            llama.llama_free(self._context)
        log.forget_context()
        self._context = llama.llama_init_from_model(self._model, _context_params(parameters))
        if not self._context:
            raise log.refusal("a context for the file")
        self._memory = llama.llama_get_memory(self._context)
        self._held: list[int] = []
        self.context_tokens: int = llama.llama_n_ctx_seq(self._context)
        self._n_batch: int = llama.llama_n_batch(self._context)

    def decode(self, tokens: Sequence[int]) -> None:
        """Put tokens behind what the context holds, and wait for the engine; the last one's logits are kept."""
        for start in range(0, len(tokens), self._n_batch):
            part = tokens[start : start + self._n_batch]
            array = (llama.llama_token * len(part))(*part)
            status = llama.llama_decode(self._context, llama.llama_batch_get_one(array, len(part)))
            if status == 1:
                raise ConflictingConfiguration(
                    f"{len(tokens)} tokens do not fit in a context of {self.context_tokens}",
                    cure="use a larger context",
                )
            if status != 0:
                raise EngineOutOfMemory(
                    f"the engine could not compute a batch of {len(part)} tokens (llama_decode says {status})",
                    cure="use a smaller n_ubatch or context, or free memory",
                )
        llama.llama_synchronize(self._context)
        self._held += tokens

    def begin(self, tokens: Sequence[int]) -> Sequence[int]:
        """Forget all but a beginning of `tokens`, and return the rest of them for `decode`, at least the last one.

        What the context holds of them is not computed again, where its memory can go back: a recurrent model's cannot,
        and that of a sliding window only while it has let go of nothing.
        """
        common = 0
        for held, token in zip(self._held, tokens[:-1], strict=False):
            if held != token:
                break
            common += 1
        whole = llama.llama_memory_seq_pos_min(self._memory, 0) == 0
        if common and whole and llama.llama_memory_seq_rm(self._memory, 0, common, -1):
            del self._held[common:]
        else:
            self.clear()
        return tokens[len(self._held) :]

    def logits(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """The logits of the last token, `vocab_size` of them: a view that the next `decode` overwrites.

        Empty when the model gives none.
        """
        pointer = llama.llama_get_logits_ith(self._context, -1)
        if not pointer:
            return np.empty(0, dtype=np.float32)
        return np.ctypeslib.as_array(pointer, shape=(self.vocab_size,))

    def clear(self) -> None:
        """Forget all tokens."""
        llama.llama_memory_clear(self._memory, True)
        self._held.clear()

    def close(self) -> None:
        if self._context:
            llama.llama_free(self._context)
            self._context = None
        if self._model:
            llama.llama_model_free(self._model)
            self._model = None

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _model_params(parameters: Parameters, *, hollow: bool) -> Any:
    params = llama.llama_model_default_params()
    params.n_gpu_layers = parameters.n_gpu_layers
    # The default mode maps the file, and with no_alloc llama.cpp then aborts.
    params.load_mode = _LOAD_WITHOUT_MMAP if hollow else _LOAD_MODES[parameters.use_mmap, parameters.use_mlock]
    params.no_alloc = hollow
    if parameters.tensor_split:
        shares = (ctypes.c_float * max(llama.llama_max_devices(), len(parameters.tensor_split)))()
        shares[: len(parameters.tensor_split)] = parameters.tensor_split
        params.tensor_split = shares  # ctypes keeps it for as long as `params` lives
    params.use_extra_bufts = parameters.use_extra_bufts
    return params


def _context_params(parameters: Parameters) -> Any:
    params = llama.llama_context_default_params()
    set_context_params(params, parameters)
    return params


def set_context_params(params: Any, parameters: Parameters) -> None:
    """Set every field of a `llama_context_params` that Parameters knows."""
    params.n_ctx = parameters.n_ctx
    params.n_batch = min(parameters.n_batch, parameters.n_ctx)
    params.n_ubatch = min(parameters.n_ubatch, params.n_batch)
    params.n_seq_max = parameters.n_seq_max
    params.n_threads = parameters.n_threads
    params.n_threads_batch = parameters.n_threads_batch or parameters.n_threads
    params.flash_attn_type = _FLASH_ATTENTION[parameters.flash_attn]
    params.swa_full = parameters.swa_full
    params.type_k, params.type_v = _GGML_TYPES[parameters.type_k], _GGML_TYPES[parameters.type_v]


def features() -> str:
    """What this build can do, in the engine's own words: `CPU : AVX2 = 1 | REPACK = 1 | …`, and CUDA's beside it."""
    llama.llama_backend_init()
    return str(llama.llama_print_system_info().decode(errors="replace")).strip(" |\n")


def uses_gpus() -> bool:
    """Whether this build finds a GPU that it can compute on."""
    llama.llama_backend_init()
    return bool(llama.llama_supports_gpu_offload())


def architecture_is_known(header: str, log: Log) -> bool:
    """Whether the engine knows the architecture that a file with nothing but a header names."""
    log.errors.clear()
    params = llama.llama_model_default_params()
    params.load_mode, params.vocab_only, params.n_gpu_layers = _LOAD_WITHOUT_MMAP, True, 0
    model = llama.llama_model_load_from_file(header.encode(), params)
    if model:
        llama.llama_model_free(model)
    return not any(_UNKNOWN_ARCHITECTURE.match(message) for message in log.errors)


def quantize(source: str, target: str, *, file_type: str) -> None:
    """Write `target`: `source` with its weights as `file_type` (`Q8_0`, `Q4_K_M`), quantized ones among them."""
    names = {"F32": "LLAMA_FTYPE_ALL_F32"}
    value = getattr(llama, names.get(file_type, f"LLAMA_FTYPE_MOSTLY_{file_type}"), None)
    if value is None:
        raise IncompatibleModel(
            f"the installed engine does not write {file_type!r}", cure="choose Q8_0, Q6_K, Q5_K_M or Q4_K_M"
        )
    params = llama.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize = value, True
    llama.llama_backend_init()
    if llama.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params)) != 0:
        Path(target).unlink(missing_ok=True)
        raise MalformedGguf(f"the engine does not quantize {source} to {file_type}", cure="run `paddock inspect` on it")
