"""Load and context parameters of the engine, under llama.cpp's own names.

The same value is used for the memory estimate, the benchmark and the server. Limits that depend on a model (its context
length, its number of layers) are left to the engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from paddock.errors import BadSetting

KV_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """Parameters that a model is loaded and run with.

    `n_ctx`            tokens of context in total, shared by `n_seq_max` sequences
    `n_threads_batch`  threads for prompts; `n_threads` by default
    `n_gpu_layers`     layers on the GPUs, -1 for all; without effect where there is no GPU
    `tensor_split`     each GPU's share of the layers; by default in proportion to its free memory
    `flash_attn`       `auto` leaves the choice to the engine
    `use_extra_bufts`  lets the engine repack weights into the layout that the processor computes fastest with; the
                       repacked tensors are held besides a mapped file
    `swa_full`         gives layers with a sliding window a cache of the whole context: the default of llama.h and
                       of llama-cpp-python; llama-server's default is off

    Raises BadSetting for a value out of range.
    """

    n_ctx: int
    n_threads: int
    n_threads_batch: int | None = None
    n_batch: int = 2048
    n_ubatch: int = 512
    n_seq_max: int = 1
    n_gpu_layers: int = -1
    tensor_split: tuple[float, ...] = ()
    flash_attn: Literal["auto", "on", "off"] = "auto"
    type_k: str = "f16"
    type_v: str = "f16"
    use_mmap: bool = True
    use_mlock: bool = False
    use_extra_bufts: bool = True
    swa_full: bool = True

    def __post_init__(self) -> None:
        for name, lowest, highest in (
            ("n_ctx", 1, 2**27),
            ("n_threads", 1, 1024),
            ("n_threads_batch", 1, 1024),
            ("n_batch", 1, 2**20),
            ("n_ubatch", 1, 2**20),
            ("n_seq_max", 1, 256),
            ("n_gpu_layers", -1, 2**20),
        ):
            value = getattr(self, name)
            if value is not None and not lowest <= value <= highest:
                raise BadSetting(f"{name} is {value}, but must be from {lowest} to {highest}")
        for name in ("type_k", "type_v"):
            if getattr(self, name) not in KV_TYPES:
                raise BadSetting(f"{name} is {getattr(self, name)!r}, but must be one of {', '.join(KV_TYPES)}")
        if self.flash_attn not in {"auto", "on", "off"}:
            raise BadSetting(f"flash_attn is {self.flash_attn!r}, but must be auto, on or off")

        if any(share < 0 for share in self.tensor_split) or (self.tensor_split and not sum(self.tensor_split)):
            raise BadSetting(
                f"tensor_split is {self.tensor_split}, but must be shares of at least 0, one of them above 0"
            )

    def no_alloc_load_key(self) -> tuple[object, ...]:
        """Return the parameters that a load without weights depends on.

        The others concern the context, or the weights themselves.
        """
        return (self.n_gpu_layers, self.tensor_split, self.use_extra_bufts)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "tensor_split": list(self.tensor_split)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Parameters:
        """Read what `to_json` wrote; a parameter that an older version did not write has its default."""
        return cls(**{**value, "tensor_split": tuple(value.get("tensor_split", ()))})
