"""Compute the memory of a model's weights in this build of the engine, which keeps some tensors in another layout.

The processor computes with some types faster in a layout of its own. For these tensors the engine keeps a repacked copy
in a separate buffer instead of using the file's bytes where they are mapped. Which tensors these are depends on the
build, the processor and the tensor's shape, so ggml itself is asked whether a device could multiply by such a tensor in
one of its extra buffers. That is the same check that llama.cpp makes (`weight_buft_supported`).

A load with `no_alloc` creates no buffers, so it does not report repacking. Importing this module loads the native
library, so only `paddock.engine.jobs` does.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import llama_cpp.llama_cpp as llama
from llama_cpp._ggml import libggml

from paddock.engine.parameters import Parameters
from paddock.gguf.header import Header, Tensor

_LAYER = re.compile(r"blk\.(\d+)\.")
_EMBEDDING = "token_embd.weight"
_LOOKUP_TABLES = (_EMBEDDING, "position_embd.weight", "token_types.weight", "per_layer_token_embd.weight")
"""Tensors whose rows are looked up rather than multiplied by: they are never repacked."""
_CPU = 0  # enum ggml_backend_dev_type
_F32 = 0  # enum ggml_type
_BUFFER_AT = ctypes.sizeof(ctypes.c_void_p)  # struct ggml_tensor: the type, then the buffer
_BATCH = 512


class _Arena(ctypes.Structure):
    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


def weights_as_loaded(headers: Sequence[Header], parameters: Parameters) -> int | None:
    """Return the bytes that a model's weights take once loaded, or None if that is the size that the file states.

    `headers` are those of all shards. Of a mapped file the engine counts everything from the first to the last tensor
    that it uses in place, plus what it repacked or moved to a GPU; without a mapping each tensor counts once. With a
    GPU, the tensors that stay on the host lie in a buffer that the GPU reads, and nothing is repacked. A tied embedding
    counts twice if it is also repacked as the output matrix, or on a GPU.
    """
    has_gpu = llama.llama_supports_gpu_offload()
    if not has_gpu and not parameters.use_extra_bufts:
        return None
    in_place = elsewhere = 0
    layers = headers[0].architecture_value("block_count")  # the other shards may lack this key

    def moves(tensor: Tensor) -> bool:
        return _is_offloaded(tensor, layers, parameters) if has_gpu else _is_repacked(tensor)

    for header in headers:
        moved = [tensor for tensor in header.tensors if moves(tensor)]
        elsewhere += sum(tensor.size_bytes for tensor in moved)
        names = {tensor.name for tensor in moved}
        remaining = [tensor for tensor in header.tensors if tensor.name not in names]
        if not remaining:
            continue
        if parameters.use_mmap:
            in_place += remaining[-1].offset + remaining[-1].size_bytes - remaining[0].offset
        else:
            in_place += sum(tensor.size_bytes for tensor in remaining)
    tensors = {tensor.name: tensor for header in headers for tensor in header.tensors}
    embedding = tensors.get(_EMBEDDING)
    if "output.weight" not in tensors and embedding is not None:
        twice = parameters.n_gpu_layers != 0 if has_gpu else _repacks(int(embedding.type), *embedding.shape)
        elsewhere += embedding.size_bytes if twice else 0
    return in_place + elsewhere if elsewhere else None


def _is_offloaded(tensor: Tensor, layers: object, parameters: Parameters) -> bool:
    """Return whether a tensor is on a GPU: the output counts as one more layer, and is the first to be moved."""
    match = _LAYER.match(tensor.name)
    if match is None or not isinstance(layers, int) or parameters.n_gpu_layers < 0:
        return parameters.n_gpu_layers != 0 and (match is not None or tensor.name.startswith("output"))
    return int(match[1]) > layers - parameters.n_gpu_layers


def _is_repacked(tensor: Tensor) -> bool:
    return (
        tensor.name not in _LOOKUP_TABLES and len(tensor.shape) in {2, 3} and _repacks(int(tensor.type), *tensor.shape)
    )


@cache
def _repacks(kind: int, *shape: int) -> bool:
    """Return whether one of the processor's extra buffer types accepts a tensor of this type and shape."""
    device = _function("ggml_backend_dev_by_type", ctypes.c_void_p, ctypes.c_int)(_CPU)
    return any(_accepts(device, buffer_type, kind, shape) for buffer_type in _extra_buffer_types(device))


def _accepts(device: int, buffer_type: int, kind: int, shape: tuple[int, ...]) -> bool:
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    arena = _function("ggml_init", pointer, _Arena)(_Arena(64 * 1024, None, True))
    buffer = _function("ggml_backend_buft_alloc_buffer", pointer, pointer, ctypes.c_size_t)(buffer_type, 0)
    new_2d = _function("ggml_new_tensor_2d", pointer, pointer, ctypes.c_int, number, number)
    new_3d = _function("ggml_new_tensor_3d", pointer, pointer, ctypes.c_int, number, number, number)
    try:
        if len(shape) == 2:
            weights = new_2d(arena, kind, *shape)
            activations = new_2d(arena, _F32, shape[0], _BATCH)
            product = _function("ggml_mul_mat", pointer, pointer, pointer, pointer)(arena, weights, activations)
        else:
            weights = new_3d(arena, kind, *shape)
            activations = new_3d(arena, _F32, shape[0], 1, _BATCH)
            experts = new_2d(arena, 26, 1, _BATCH)  # I32
            multiply = _function("ggml_mul_mat_id", pointer, pointer, pointer, pointer, pointer)
            product = multiply(arena, weights, activations, experts)
        ctypes.c_void_p.from_address(weights + _BUFFER_AT).value = buffer
        return bool(_function("ggml_backend_dev_supports_op", ctypes.c_bool, pointer, pointer)(device, product))
    finally:
        _function("ggml_backend_buffer_free", None, pointer)(buffer)
        _function("ggml_free", None, pointer)(arena)


def _extra_buffer_types(device: int) -> list[int]:
    pointer = ctypes.c_void_p
    registry = _function("ggml_backend_dev_backend_reg", pointer, pointer)(device)
    address = _function("ggml_backend_reg_get_proc_address", pointer, pointer, ctypes.c_char_p)(
        registry, b"ggml_backend_dev_get_extra_bufts"
    )
    if not address:
        return []
    listed = ctypes.CFUNCTYPE(ctypes.POINTER(pointer), pointer)(address)(device)
    found: list[int] = []
    while listed and listed[len(found)]:
        found.append(listed[len(found)])
    return found


def _function(name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(libggml, name)
    function.restype, function.argtypes = result, arguments
    return function
