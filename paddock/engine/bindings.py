"""Python wrapper around llama.cpp's C interface, for the engine's child process.

A `Session` is a loaded model with a context.

Importing this module loads the native library, so the parent process never imports it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import llama_cpp.llama_cpp as llama

from paddock.engine.log import Log
from paddock.engine.parameters import Parameters
from paddock.errors import ConflictingConfiguration, EngineOutOfMemory, IncompatibleModel, MalformedGguf, PaddockError

if TYPE_CHECKING:
    import numpy as np  # takes longer to import than most jobs, which do not use it

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


class Session:
    """A loaded model and a context for it.

    `no_alloc` is for a file without its tensor data: the engine computes sizes, and neither allocates nor reads
    weights. `embeds` is for a model that gives embeddings instead of generating text: then `embed` is used, and not
    `decode` and `logits`.

    Raises IncompatibleModel, MalformedGguf, EngineOutOfMemory, ConflictingConfiguration.
    """

    def __init__(
        self, paths: Sequence[str], parameters: Parameters, log: Log, *, no_alloc: bool = False, embeds: bool = False
    ) -> None:
        self._model: Any = None
        self._context: Any = None
        self._embeds = embeds
        llama.llama_backend_init()
        names = (ctypes.c_char_p * len(paths))(*[path.encode() for path in paths])
        self._model = llama.llama_model_load_from_splits(
            names, len(paths), _model_params(parameters, no_alloc=no_alloc)
        )
        if not self._model:
            raise log.refusal("the file")
        self._has_encoder: bool = llama.llama_model_has_encoder(self._model)
        if not embeds and (self._has_encoder or not llama.llama_model_has_decoder(self._model)):
            self.close()
            raise ConflictingConfiguration(
                "the model is not a decoder: it embeds or encodes, and cannot generate text by itself",
                cure="choose a language model",
            )
        self.vocabulary: Any = llama.llama_model_get_vocab(self._model)
        self.vocab_size: int = llama.llama_vocab_n_tokens(self.vocabulary)
        self.bos: int = llama.llama_vocab_bos(self.vocabulary)
        self.weights_bytes: int = llama.llama_model_size(self._model)
        try:
            self.replace_context(parameters, log)
        except PaddockError:
            self.close()
            raise

    def replace_context(self, parameters: Parameters, log: Log) -> None:
        """Free the context and create an empty one for the same model.

        Only those `parameters` that concern the context are used. Raises as the constructor does; the session then has
        no context until the next call.
        """
        if self._context:
            llama.llama_free(self._context)
        log.forget_context()
        self._context = llama.llama_init_from_model(self._model, _context_params(parameters, embeds=self._embeds))
        if not self._context:
            raise log.refusal("a context for the file")
        self._memory = llama.llama_get_memory(self._context)
        self._cached: list[int] = []
        self.context_tokens: int = llama.llama_n_ctx_seq(self._context)
        self._n_batch: int = llama.llama_n_batch(self._context)
        self._n_ubatch: int = llama.llama_n_ubatch(self._context)

    def decode(self, tokens: Sequence[int]) -> None:
        """Append tokens to the context and wait until they are computed; the logits of the last one are kept.

        Raises ConflictingConfiguration if the context is full, EngineOutOfMemory if the engine cannot compute a batch.
        """
        for start in range(0, len(tokens), self._n_batch):
            batch = tokens[start : start + self._n_batch]
            array = (llama.llama_token * len(batch))(*batch)
            self._compute(llama.llama_batch_get_one(array, len(batch)), len(tokens))
        llama.llama_synchronize(self._context)
        self._cached += tokens

    def _compute(self, batch: Any, appended: int) -> None:
        """Compute one batch of a call that appends so many tokens."""
        status = llama.llama_decode(self._context, batch)
        if status == 1:
            raise ConflictingConfiguration(
                f"{appended} tokens do not fit in a context of {self.context_tokens}",
                cure="use a larger context",
            )
        if status != 0:
            raise EngineOutOfMemory(
                f"the engine could not compute a batch of {batch.n_tokens} tokens (llama_decode returned {status})",
                cure="use a smaller n_ubatch or context, or free memory",
            )

    def decode_all(self, tokens: Sequence[int]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Append at most `n_batch` tokens to the context, and return the logits of each of them.

        The shape is (number of tokens, vocab_size), float32: a view that the next decode overwrites. Raises as
        `decode`, and ConflictingConfiguration where the model gives no logits.
        """
        import numpy as np

        batch = llama.llama_batch_init(len(tokens), 0, 1)
        try:
            batch.n_tokens = len(tokens)
            for index, token in enumerate(tokens):
                batch.token[index], batch.pos[index] = token, len(self._cached) + index
                batch.n_seq_id[index], batch.seq_id[index][0], batch.logits[index] = 1, 0, True
            self._compute(batch, len(tokens))
        finally:
            llama.llama_batch_free(batch)
        llama.llama_synchronize(self._context)
        self._cached += tokens
        pointer = llama.llama_get_logits(self._context)
        if not pointer:
            raise ConflictingConfiguration("the model gives no logits", cure="choose a language model")
        return np.ctypeslib.as_array(pointer, shape=(len(tokens), self.vocab_size))

    def reuse_prefix(self, tokens: Sequence[int]) -> Sequence[int]:
        """Drop what the context holds beyond its common prefix with `tokens`, and return the tokens left to `decode`.

        At least the last token is returned. Nothing is reused where the context cannot drop its newest tokens: a
        recurrent model's state cannot, nor can a sliding window's cache once it has dropped old tokens.
        """
        common = 0
        for cached, token in zip(self._cached, tokens[:-1], strict=False):
            if cached != token:
                break
            common += 1
        complete = llama.llama_memory_seq_pos_min(self._memory, 0) == 0
        if common and complete and llama.llama_memory_seq_rm(self._memory, 0, common, -1):
            del self._cached[common:]
        else:
            self.clear()
        return tokens[len(self._cached) :]

    def logits(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return the last token's logits, shape (vocab_size,), float32: a view that the next `decode` overwrites.

        Empty if the model gives none.
        """
        import numpy as np

        pointer = llama.llama_get_logits_ith(self._context, -1)
        if not pointer:
            return np.empty(0, dtype=np.float32)
        return np.ctypeslib.as_array(pointer, shape=(self.vocab_size,))

    def embed(self, tokens: Sequence[int]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Compute a prompt from an empty context, and return a copy of its embedding, or of a reranker's scores.

        Without pooling that is the last token's embedding. Empty if the model gives none. Raises
        ConflictingConfiguration for more tokens than `n_ubatch`: a prompt is encoded as a whole.
        """
        import numpy as np

        if len(tokens) > self._n_ubatch:
            raise ConflictingConfiguration(
                f"{len(tokens)} tokens are more than the {self._n_ubatch} that the engine encodes at once",
                cure="use a larger n_ubatch, or a shorter prompt",
            )
        self.clear()
        array = (llama.llama_token * len(tokens))(*tokens)
        compute = llama.llama_encode if self._has_encoder or not self._memory else llama.llama_decode
        status = compute(self._context, llama.llama_batch_get_one(array, len(tokens)))
        if status != 0:
            raise EngineOutOfMemory(
                f"the engine could not encode {len(tokens)} tokens (status {status})",
                cure="use a smaller n_ubatch or context, or free memory",
            )
        llama.llama_synchronize(self._context)
        pooling = llama.llama_pooling_type(self._context)
        if pooling in {llama.LLAMA_POOLING_TYPE_NONE, llama.LLAMA_POOLING_TYPE_UNSPECIFIED}:
            pointer = llama.llama_get_embeddings_ith(self._context, -1)
        else:
            pointer = llama.llama_get_embeddings_seq(self._context, 0)
        scores = pooling == llama.LLAMA_POOLING_TYPE_RANK
        size = llama.llama_model_n_cls_out(self._model) if scores else llama.llama_model_n_embd_out(self._model)
        return np.ctypeslib.as_array(pointer, shape=(size,)).copy() if pointer else np.empty(0, dtype=np.float32)

    def embedding_output_bytes(self) -> int:
        """Return the size that the output buffer has once a full batch was embedded.

        Each token of it is an output, and llama.cpp reserves logits for each, though it computes none. The buffer is
        smaller until then.
        """
        width = self.vocab_size + llama.llama_model_n_embd_out(self._model)
        return int(min(self._n_ubatch, self._n_batch) * width * ctypes.sizeof(ctypes.c_float))

    def clear(self) -> None:
        """Drop all tokens from the context."""
        if self._memory:  # an encoder keeps none
            llama.llama_memory_clear(self._memory, True)
        self._cached.clear()

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


def _model_params(parameters: Parameters, *, no_alloc: bool) -> Any:
    params = llama.llama_model_default_params()
    params.n_gpu_layers = parameters.n_gpu_layers
    # The default mode maps the file, and with no_alloc llama.cpp then aborts.
    params.load_mode = _LOAD_WITHOUT_MMAP if no_alloc else _LOAD_MODES[parameters.use_mmap, parameters.use_mlock]
    params.no_alloc = no_alloc
    if parameters.tensor_split:
        shares = (ctypes.c_float * max(llama.llama_max_devices(), len(parameters.tensor_split)))()
        shares[: len(parameters.tensor_split)] = parameters.tensor_split
        params.tensor_split = shares  # ctypes keeps it alive as long as `params`
    params.use_extra_bufts = parameters.use_extra_bufts
    return params


def _context_params(parameters: Parameters, *, embeds: bool) -> Any:
    params = llama.llama_context_default_params()
    set_context_params(params, parameters)
    params.embeddings = embeds
    return params


def set_context_params(params: Any, parameters: Parameters) -> None:
    """Set every field of a `llama_context_params` that `Parameters` has a value for."""
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
    """Return the features of this build as llama.cpp lists them: `CPU : AVX2 = 1 | REPACK = 1 | …`, CUDA's included."""
    llama.llama_backend_init()
    return str(llama.llama_print_system_info().decode(errors="replace")).strip(" |\n")


def uses_gpus() -> bool:
    """Return whether this build finds a GPU that it can compute on."""
    llama.llama_backend_init()
    return bool(llama.llama_supports_gpu_offload())


def architecture_is_known(header: str, log: Log) -> bool:
    """Return whether the engine supports the architecture named by `header`, the path of a GGUF with only a header."""
    log.errors.clear()
    params = llama.llama_model_default_params()
    params.load_mode, params.vocab_only, params.n_gpu_layers = _LOAD_WITHOUT_MMAP, True, 0
    model = llama.llama_model_load_from_file(header.encode(), params)
    if model:
        llama.llama_model_free(model)
    return not log.names_unknown_architecture


def quantize(source: str, target: str, *, file_type: str) -> None:
    """Quantize the GGUF `source` to `file_type` (`Q8_0`, `Q4_K_M`) and write it to `target`.

    Weights that are already quantized are quantized again. Raises IncompatibleModel for a type that the engine does
    not write, MalformedGguf for a source that it refuses.
    """
    names = {"F32": "LLAMA_FTYPE_ALL_F32"}
    value = getattr(llama, names.get(file_type, f"LLAMA_FTYPE_MOSTLY_{file_type}"), None)
    if value is None:
        raise IncompatibleModel(
            f"the installed engine cannot quantize to {file_type!r}", cure="choose Q8_0, Q6_K, Q5_K_M or Q4_K_M"
        )
    params = llama.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize = value, True
    llama.llama_backend_init()
    if llama.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params)) != 0:
        Path(target).unlink(missing_ok=True)
        raise MalformedGguf(
            f"the engine could not quantize {source} to {file_type}", cure="run `paddock inspect` on it"
        )
