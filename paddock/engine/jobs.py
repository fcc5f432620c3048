"""Define the jobs that run in llama.cpp's child process (benchmark, embed, generate, ...): JSON in, JSON out.

    job             arguments
    benchmark       `paths`, `parameters` (those of `Parameters`), `prompts`, `generations`, `limit_s`
    embed           `paths`, `parameters`, `prompts`, `limit_s`
    pair            `models` (a list of `paths` and `parameters`), `embeds`, `together`, `n_prompt`, `n_gen`, `least`,
                    `rounds`, `within_s`
    race            `paths`, `candidates` (a list of parameters), `n_prompt`, `n_gen`, `rounds`, `within_s`
    count_tokens    `paths`, `parameters`, `texts`
    generate        `paths`, `parameters`, `prompts`, `n_gen`, `stop`
    compare         `models` (a list of `paths` and `parameters`), `texts`, `chunk_tokens`, `limit_tokens`
    memory          `paths`, `parameters` (a list of them)
    projector       `path`, `threads`, `use_gpu`
    architectures   `names`
    quantize        `source`, `target`, `type`

`paths` holds one path for each shard of a model.
"""

from __future__ import annotations

import importlib
import os
import struct
from collections.abc import Callable
from contextlib import ExitStack, suppress
from itertools import groupby
from pathlib import Path
from typing import Any

from paddock.confinement.places import gpu_nodes
from paddock.engine import bindings, generation
from paddock.engine.log import Log
from paddock.engine.parameters import Parameters
from paddock.errors import MalformedGguf, NotGguf
from paddock.gguf.header import Header
from paddock.gguf.kind import kind_of
from paddock.gguf.reader import FileSource, read_header

Arguments = dict[str, Any]


def memory(arguments: Arguments) -> Arguments:
    """Estimate memory for each of the parameters, in their order.

    Parameters that load the model alike share one load.
    """
    from paddock.engine.repacking import weights_as_loaded

    requested = [Parameters.from_json(value) for value in arguments["parameters"]]
    answers: dict[int, Arguments] = {}
    embeds = _embeds(arguments["paths"])
    order = sorted(range(len(requested)), key=lambda index: repr(requested[index].no_alloc_load_key()))
    for _, alike in groupby(order, key=lambda index: requested[index].no_alloc_load_key()):
        first, *others = alike
        log = Log()
        with bindings.Session(arguments["paths"], requested[first], log, no_alloc=True, embeds=embeds) as session:
            headers = _headers(arguments["paths"])
            for index in (first, *others):
                if index != first:
                    session.replace_context(requested[index], log)
                weights = weights_as_loaded(headers, requested[index]) or session.weights_bytes
                output = session.embedding_output_bytes() if embeds else 0
                answers[index] = {"weights_bytes": weights, "lines": log.memory, "output_bytes": output}
    return {"answers": [answers[index] for index in range(len(requested))]}


def _embeds(paths: list[str]) -> bool:
    try:
        headers = _headers(paths)
    except (NotGguf, MalformedGguf):
        return False  # the engine refuses the file, and says why
    return kind_of(headers[0], all_tensors=[tensor for header in headers for tensor in header.tensors]).embeds


def _headers(paths: list[str]) -> list[Header]:
    with ExitStack() as files:
        return [read_header(files.enter_context(FileSource(Path(path)))) for path in paths]


def projector(arguments: Arguments) -> Arguments:
    from paddock.engine.multimodal import projector_buffers

    buffers = projector_buffers(arguments["path"], threads=arguments["threads"], use_gpu=arguments["use_gpu"])
    return {"compute_bytes": sum(size for _, size in buffers)}


def architectures(arguments: Arguments) -> Arguments:
    log = Log()
    supported = {}
    for name in arguments["names"]:
        descriptor = os.memfd_create("header")
        try:
            os.write(descriptor, _header_naming(name))
            supported[name] = bindings.architecture_is_known(f"/proc/self/fd/{descriptor}", log)
        finally:
            os.close(descriptor)
    return {"known": supported}


def describe(arguments: Arguments) -> Arguments:  # noqa: ARG001 - the signature of a job
    return {"features": bindings.features(), "uses_gpus": bindings.uses_gpus()}


def benchmark(arguments: Arguments) -> Arguments:
    from paddock.engine.timing import measure_speed  # imports numpy and the settings

    return measure_speed(
        arguments["paths"],
        Parameters.from_json(arguments["parameters"]),
        prompts=arguments["prompts"],
        generations=arguments["generations"],
        limit_s=arguments["limit_s"],
    )


def embed(arguments: Arguments) -> Arguments:
    from paddock.engine.timing import measure_embedding  # imports numpy and the settings

    return measure_embedding(
        arguments["paths"],
        Parameters.from_json(arguments["parameters"]),
        prompts=arguments["prompts"],
        limit_s=arguments["limit_s"],
    )


def pair(arguments: Arguments) -> Arguments:
    from paddock.engine.pairing import time_pairs  # imports numpy and the settings

    return time_pairs(
        [(model["paths"], Parameters.from_json(model["parameters"])) for model in arguments["models"]],
        embeds=arguments["embeds"],
        together=arguments["together"],
        n_prompt=arguments["n_prompt"],
        n_gen=arguments["n_gen"],
        least=arguments["least"],
        rounds=arguments["rounds"],
        within_s=arguments["within_s"],
    )


def race(arguments: Arguments) -> Arguments:
    from paddock.engine.timing import time_requests  # imports numpy and the settings

    return time_requests(
        arguments["paths"],
        [Parameters.from_json(value) for value in arguments["candidates"]],
        n_prompt=arguments["n_prompt"],
        n_gen=arguments["n_gen"],
        rounds=arguments["rounds"],
        within_s=arguments["within_s"],
    )


def count_tokens(arguments: Arguments) -> Arguments:
    return generation.count_tokens(
        arguments["paths"], Parameters.from_json(arguments["parameters"]), arguments["texts"]
    )


def generate(arguments: Arguments) -> Arguments:
    return generation.generate(
        arguments["paths"],
        Parameters.from_json(arguments["parameters"]),
        arguments["prompts"],
        n_gen=arguments["n_gen"],
        stop=arguments["stop"],
    )


def compare(arguments: Arguments) -> Arguments:
    from paddock.engine.likelihood import compare as compare_models  # imports numpy

    return compare_models(
        [(model["paths"], Parameters.from_json(model["parameters"])) for model in arguments["models"]],
        arguments["texts"],
        chunk_tokens=arguments["chunk_tokens"],
        limit_tokens=arguments["limit_tokens"],
    )


def quantize(arguments: Arguments) -> Arguments:
    Log()
    bindings.quantize(arguments["source"], arguments["target"], file_type=arguments["type"])
    return {"size_bytes": Path(arguments["target"]).stat().st_size}


def _header_naming(architecture: str) -> bytes:
    """Return the smallest GGUF: magic, version 3, no tensors, one key `general.architecture`, a string (type 8)."""

    def text(value: bytes) -> bytes:
        return struct.pack("<Q", len(value)) + value

    return (
        b"GGUF"
        + struct.pack("<IQQ", 3, 0, 1)
        + text(b"general.architecture")
        + struct.pack("<I", 8)
        + text(architecture.encode())
    )


def load_modules(job: str) -> None:
    """Import what a job imports when it runs."""
    for module in _MODULES.get(job, ()):
        importlib.import_module(module)
    if job in _TIMED and gpu_nodes():
        with suppress(ImportError):
            importlib.import_module("pynvml")  # counts a GPU's memory and energy


_NUMPY = "numpy.ctypeslib"
_MODULES = {
    "memory": ["paddock.engine.repacking"],
    "projector": ["paddock.engine.multimodal"],
    "benchmark": ["paddock.engine.timing", _NUMPY],
    "embed": ["paddock.engine.timing", _NUMPY],
    "pair": ["paddock.engine.pairing", _NUMPY],
    "race": ["paddock.engine.timing", _NUMPY],
    "generate": [_NUMPY],
    "compare": ["paddock.engine.likelihood", _NUMPY],
}
_TIMED = frozenset({"benchmark", "embed", "pair", "race"})

JOBS: dict[str, Callable[[Arguments], Arguments]] = {
    "memory": memory,
    "projector": projector,
    "architectures": architectures,
    "benchmark": benchmark,
    "embed": embed,
    "pair": pair,
    "race": race,
    "count_tokens": count_tokens,
    "generate": generate,
    "compare": compare,
    "quantize": quantize,
    "describe": describe,
}
