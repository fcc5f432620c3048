"""Constants of the GGUF format: limits, value types, tensor types, file types, and signatures of other formats.

A *block* is the smallest run of elements that a tensor type can hold; a row of a tensor consists of whole blocks. The
*file type* is the number in `general.file_type`: the quantization intended for most of a file's tensors.

Sources: the layout is specified in https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, block sizes are taken
from ggml-common.h, file types from llama.h. This module does no I/O; `reader` parses files.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

MAGIC: Final = b"GGUF"
VERSIONS: Final = (2, 3)
DEFAULT_ALIGNMENT: Final = 32

MAX_HEADER_BYTES: Final = 64 << 20
MAX_KEYS: Final = 65_536
MAX_TENSORS: Final = 65_536
MAX_ITEMS: Final = 16_000_000
MAX_TOKENS: Final = 1 << 20  # four times the largest known vocabulary
MAX_MERGES: Final = 1 << 21
MAX_KEY_BYTES: Final = 65_535
MAX_NAME_BYTES: Final = 63
MAX_DIMENSIONS: Final = 4
MAX_DIMENSION: Final = 2**31
ALIGNMENTS: Final = tuple(1 << power for power in range(3, 17))  # 8 to 65,536


class ValueType(IntEnum):
    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


SCALARS: Final = {
    ValueType.UINT8: "B",
    ValueType.INT8: "b",
    ValueType.UINT16: "H",
    ValueType.INT16: "h",
    ValueType.UINT32: "I",
    ValueType.INT32: "i",
    ValueType.FLOAT32: "f",
    ValueType.BOOL: "?",
    ValueType.UINT64: "Q",
    ValueType.INT64: "q",
    ValueType.FLOAT64: "d",
}
"""The `struct` format code of each fixed-size value type. All values are little-endian."""


class GgmlType(IntEnum):
    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q5_0 = 6
    Q5_1 = 7
    Q8_0 = 8
    Q8_1 = 9
    Q2_K = 10
    Q3_K = 11
    Q4_K = 12
    Q5_K = 13
    Q6_K = 14
    Q8_K = 15
    IQ2_XXS = 16
    IQ2_XS = 17
    IQ3_XXS = 18
    IQ1_S = 19
    IQ4_NL = 20
    IQ3_S = 21
    IQ2_S = 22
    IQ4_XS = 23
    I8 = 24
    I16 = 25
    I32 = 26
    I64 = 27
    F64 = 28
    IQ1_M = 29
    BF16 = 30
    TQ1_0 = 34
    TQ2_0 = 35
    MXFP4 = 39
    NVFP4 = 40
    Q1_0 = 41
    Q2_0 = 42

    @property
    def block_length(self) -> int:
        """Number of elements in a block."""
        return _BLOCKS[self][0]

    @property
    def block_bytes(self) -> int:
        """Size of a block in bytes."""
        return _BLOCKS[self][1]


REMOVED_TYPES: Final = {
    4: "Q4_2",
    5: "Q4_3",
    31: "Q4_0_4_4",
    32: "Q4_0_4_8",
    33: "Q4_0_8_8",
    36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
}
"""Tensor types of older llama.cpp versions that current ones no longer read, by type number."""

_BLOCKS: Final = {
    GgmlType.F32: (1, 4),
    GgmlType.F16: (1, 2),
    GgmlType.Q4_0: (32, 18),
    GgmlType.Q4_1: (32, 20),
    GgmlType.Q5_0: (32, 22),
    GgmlType.Q5_1: (32, 24),
    GgmlType.Q8_0: (32, 34),
    GgmlType.Q8_1: (32, 36),  # gguf-py says 40, but ggml-common.h and the engine use 36
    GgmlType.Q2_K: (256, 84),
    GgmlType.Q3_K: (256, 110),
    GgmlType.Q4_K: (256, 144),
    GgmlType.Q5_K: (256, 176),
    GgmlType.Q6_K: (256, 210),
    GgmlType.Q8_K: (256, 292),
    GgmlType.IQ2_XXS: (256, 66),
    GgmlType.IQ2_XS: (256, 74),
    GgmlType.IQ3_XXS: (256, 98),
    GgmlType.IQ1_S: (256, 50),
    GgmlType.IQ4_NL: (32, 18),
    GgmlType.IQ3_S: (256, 110),
    GgmlType.IQ2_S: (256, 82),
    GgmlType.IQ4_XS: (256, 136),
    GgmlType.I8: (1, 1),
    GgmlType.I16: (1, 2),
    GgmlType.I32: (1, 4),
    GgmlType.I64: (1, 8),
    GgmlType.F64: (1, 8),
    GgmlType.IQ1_M: (256, 56),
    GgmlType.BF16: (1, 2),
    GgmlType.TQ1_0: (256, 54),
    GgmlType.TQ2_0: (256, 66),
    GgmlType.MXFP4: (32, 17),
    GgmlType.NVFP4: (64, 36),
    GgmlType.Q1_0: (128, 18),
    GgmlType.Q2_0: (64, 18),
}

NOT_WEIGHTS: Final = frozenset(
    {GgmlType.Q8_1, GgmlType.Q8_K, GgmlType.I8, GgmlType.I16, GgmlType.I32, GgmlType.I64, GgmlType.F64}
)
"""Types of intermediate results and indices, which are never used to store weights."""

_FILE_TYPES: Final = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4_MOE",
    39: "NVFP4",
    40: "Q1_0",
    41: "Q2_0",
}
_GUESSED_BIT: Final = 1024  # set by the engine when it guessed the file type


def file_type_name(number: int) -> str | None:
    """Return the quantization for a `general.file_type` number (15 is `Q4_K_M`), or None for an unknown number."""
    return _FILE_TYPES.get(number & ~_GUESSED_BIT)


@dataclass(frozen=True, slots=True)
class ForeignFormat:
    """A file format other than GGUF: its `name` with an article ("a zip archive"), and the `cure` to suggest."""

    name: str
    cure: str


_CURE_LFS = "fetch the file itself: run `git lfs pull`, or pull the model with `paddock pull`"
_CURE_DOWNLOAD = "download the file again; a proxy or another server answered instead of the Hub"
_CURE_CONVERT = "pull a repository that has a .gguf file; Paddock does not convert models"
_SIGNATURES: Final = (
    (b"version https://git-lfs", ForeignFormat("a Git LFS pointer", _CURE_LFS)),
    (b"\x7fELF", ForeignFormat("an ELF program", "do not run it; report the repository to the Hub")),
    (b"MZ", ForeignFormat("a Windows program", "do not run it; report the repository to the Hub")),
    (b"PK\x03\x04", ForeignFormat("a zip archive (possibly a PyTorch checkpoint)", _CURE_CONVERT)),
    (b"\x1f\x8b", ForeignFormat("gzip data", "decompress it first, or download it without Content-Encoding")),
    (b"\x28\xb5\x2f\xfd", ForeignFormat("Zstandard data", "decompress it first")),
    (b"\xfd7zXZ\x00", ForeignFormat("xz data", "decompress it first")),
    (b"BZh", ForeignFormat("bzip2 data", "decompress it first")),
    (b"7z\xbc\xaf\x27\x1c", ForeignFormat("a 7-Zip archive", "unpack it first")),
    (b"%PDF", ForeignFormat("a PDF document", _CURE_DOWNLOAD)),
    (b"lmgg", ForeignFormat("a GGML file from before GGUF", _CURE_CONVERT)),
    (b"fmgg", ForeignFormat("a GGMF file from before GGUF", _CURE_CONVERT)),
    (b"tjgg", ForeignFormat("a GGJT file from before GGUF", _CURE_CONVERT)),
    (
        b"FUGG",
        ForeignFormat("a GGUF file with a byte-swapped magic number", "convert it to little-endian"),
    ),
    (b"\x89HDF", ForeignFormat("an HDF5 file", _CURE_CONVERT)),
)
_PICKLE_PROTOCOLS = range(6)


def detect_foreign_format(head: bytes) -> ForeignFormat | None:
    """Detect the format of a file that is not a GGUF from its first bytes (a few hundred are enough).

    Returns None if the format is not recognized.
    """
    for signature, foreign in _SIGNATURES:
        if head.startswith(signature):
            return foreign
    if head[:1] == b"\x80" and len(head) > 1 and head[1] in _PICKLE_PROTOCOLS:
        return ForeignFormat("a Python pickle", f"do not load it, because it can run code; {_CURE_CONVERT}")
    if len(head) > 9 and int.from_bytes(head[:8], "little") < 100 << 20 and head[8:9] == b"{":
        return ForeignFormat("a SafeTensors file", _CURE_CONVERT)
    if head and not head.strip(b"\0"):
        return ForeignFormat("all zeros (the data was never written)", "download the file again")
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")):
        return ForeignFormat("an HTML or XML page", _CURE_DOWNLOAD)
    if text.startswith((b"{", b"[")):
        return ForeignFormat("JSON (possibly an error message)", _CURE_DOWNLOAD)
    return None
