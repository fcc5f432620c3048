"""Load a multimodal projector with llama.cpp's libmtmd, for the engine's child process, and report its memory.

As with `bindings`, importing this module loads the native library. A fact is matched only at the start of a log
message, where the library's own words are.
"""

from __future__ import annotations

import re
import sys
from typing import Any

import llama_cpp.llama_cpp as llama
import llama_cpp.mtmd_cpp as mtmd

from paddock.errors import MalformedGguf

_ERROR = 4  # enum ggml_log_level
_BUFFER = re.compile(r"\w+: +(\S+) compute buffer size = *([0-9.]+) MiB")
_RESERVED = re.compile(r"\w+: graph splits = ")
_LARGEST = re.compile(r"\w+: image_max_pixels: +(\d+)")
_WARMUP = re.compile(r"\w+: warmup with image size = (\d+) x (\d+)")
_FLASH_ATTENTION = re.compile(r"\w+: flash attention is (enabled|disabled)")


class ProjectorLog:
    """Receiver of libmtmd's log messages. `buffers` are (device, bytes) of the compute buffers for the largest image
    that the projector takes, or the largest piece of sound.

    libmtmd reserves buffers for a smaller image than the largest where that has many pixels. What it reserves grows in
    proportion to the pixels, and without flash attention with their square.
    """

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.buffers: list[tuple[str, int]] = []
        self._reserving: list[tuple[str, int]] = []
        self._reserved: list[tuple[str, int]] = []
        self._largest_pixels = 0
        self._reserved_pixels = 0
        self._callback = llama.llama_log_callback(self._receive)  # must stay referenced
        mtmd.mtmd_helper_log_set(self._callback, None)

    def _receive(self, level: int, text: bytes, _user_data: object) -> None:
        message = text.decode(errors="replace").rstrip("\n")
        if level == _ERROR and len(self.errors) < 20:
            self.errors.append(message[:2000])
        if found := _BUFFER.match(message):
            self._reserving.append((found[1], round(float(found[2]) * 2**20)))
        elif _RESERVED.match(message):
            self._reserved, self._reserving = self._reserving, []
        elif found := _LARGEST.match(message):
            self._largest_pixels = int(found[1])
        elif found := _WARMUP.match(message):
            self._reserved_pixels = int(found[1]) * int(found[2])
        elif found := _FLASH_ATTENTION.match(message):
            growth = max(self._largest_pixels / self._reserved_pixels, 1.0) if self._reserved_pixels else 1.0
            growth **= 1 if found[1] == "enabled" else 2
            self.buffers += [(device, round(size * growth)) for device, size in self._reserved]
            self._reserved, self._largest_pixels, self._reserved_pixels = [], 0, 0
        sys.stderr.write(message.replace("\n", "\\n") + "\n")


def projector_buffers(path: str, *, threads: int, use_gpu: bool) -> list[tuple[str, int]]:
    """Load a projector without its model, and return (device, bytes) of its compute buffers. Raises MalformedGguf."""
    llama.llama_backend_init()
    log = ProjectorLog()
    params: Any = mtmd.mtmd_context_params_default()
    params.n_threads, params.use_gpu, params.print_timings, params.warmup = threads, use_gpu, False, True
    context = mtmd.mtmd_init_from_file(path.encode(), None, params)  # NULL: without its model
    if not context:
        reason = " ".join(log.errors[0].split()) if log.errors else "it gives no reason"
        raise MalformedGguf(
            f"the engine refuses the projector: {reason[:300]}", cure="pull it again, or serve the model without it"
        )
    mtmd.mtmd_free(context)
    return log.buffers
