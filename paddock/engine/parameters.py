"""The engine's parameters, in llama.cpp's own names.

One value says how a model is loaded and run: the oracle measures with it, the benchmark runs with it, the server is
started with it. Limits that depend on a model (its context, its layers) are the engine's to enforce.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from paddock.errors import BadSetting

KV_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """`n_ctx` is tokens in all, shared by `n_seq_max` sequences.

    `n_gpu_layers` -1 puts all layers on the GPUs where there are any; `flash_attn` auto is the engine's choice.
    `swa_full` gives layers with a sliding window a cache of the whole context: llama.h's default, and that of
    llama-cpp-python's server, which has no switch for it; llama-server's is off.
    """

    n_ctx: int
    n_threads: int
    n_batch: int = 2048
    n_ubatch: int = 512
    n_seq_max: int = 1
    n_gpu_layers: int = -1
    flash_attn: Literal["auto", "on", "off"] = "auto"
    type_k: str = "f16"
    type_v: str = "f16"
    use_mmap: bool = True
    swa_full: bool = True

    def __post_init__(self) -> None:
        for name, lowest, highest in (
            ("n_ctx", 1, 2**27),
            ("n_threads", 1, 1024),
            ("n_batch", 1, 2**20),
            ("n_ubatch", 1, 2**20),
            ("n_seq_max", 1, 256),
            ("n_gpu_layers", -1, 2**20),
        ):
            value = getattr(self, name)
            if not lowest <= value <= highest:
                raise BadSetting(f"{name} is {value}, and must be from {lowest} to {highest}")
        for name in ("type_k", "type_v"):
            if getattr(self, name) not in KV_TYPES:
                raise BadSetting(f"{name} is {getattr(self, name)!r}, and must be one of {', '.join(KV_TYPES)}")
        if self.flash_attn not in {"auto", "on", "off"}:
            raise BadSetting(f"flash_attn is {self.flash_attn!r}, and must be auto, on or off")

    def to_json(self) -> dict[str, int | str | bool]:
        return asdict(self)
