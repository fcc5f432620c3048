"""The rules of the tensor data: finite numbers in every value and block scale, no norm of zeros, no hole.

A *scale* is the number by which the integers of a block are multiplied; where one is infinite or not a number, so is
every answer; and so it is where a single weight is so large that what the layers make of it overflows. A *hole* is a
long run of zero bytes, as a file has that was made at its full size and never written to the end. Everything is looked
at once, in order, so memory stays small whatever the file's size.
Numbers are judged by their bits, as ggml_validate_row_data does.

Not judged: whether the weights are those that their author meant. That is the digest's to say.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from paddock.gguf.format import GgmlType
from paddock.gguf.header import Header, Tensor
from paddock.gguf.source import FETCH_AGAIN, ByteSource
from paddock.model.finding import Finding, Severity

HOLE_BYTES: Final = 1 << 20
"""A run of zeros of this length is a hole. Shorter ones come from pruned rows."""

_CHUNK_BYTES: Final = 8 << 20
_PAGE_BYTES: Final = 4096
_MOST_FINDINGS: Final = 8
_SCALES: Final = {
    GgmlType.Q4_0: (0,),
    GgmlType.Q4_1: (0, 2),
    GgmlType.Q5_0: (0,),
    GgmlType.Q5_1: (0, 2),
    GgmlType.Q8_0: (0,),
    GgmlType.Q2_K: (80, 82),
    GgmlType.Q3_K: (108,),
    GgmlType.Q4_K: (0, 2),
    GgmlType.Q5_K: (0, 2),
    GgmlType.Q6_K: (208,),
    GgmlType.IQ1_S: (0,),
    GgmlType.IQ2_XXS: (0,),
    GgmlType.IQ2_XS: (0,),
    GgmlType.IQ2_S: (0,),
    GgmlType.IQ3_XXS: (0,),
    GgmlType.IQ3_S: (0,),
    GgmlType.IQ4_NL: (0,),
    GgmlType.IQ4_XS: (0,),
    GgmlType.TQ1_0: (52,),
    GgmlType.TQ2_0: (64,),
    GgmlType.Q1_0: (0,),
    GgmlType.Q2_0: (0,),
}
"""Where the F16 scales of a block lie. IQ1_M and MXFP4 have theirs another way; in NVFP4 every byte is a number."""

_DECISIVE: Final = frozenset({"token_embd.weight", "output.weight"})  # of zeros, every token gets the same answer

_Bytes = npt.NDArray[np.uint8]
# the exponent's bits, all set in infinities and in what is no number
_EXPONENT_F16, _EXPONENT_BF16, _EXPONENT_F32 = 0x7C00, 0x7F80, 0x7F800000
# the exponent of 2^40, beyond which a weight overflows in a few layers; real ones stay below 2^16
_HUGE_BF16, _HUGE_F32 = (127 + 40) << 7, (127 + 40) << 23
# the exponent of 2^5: with a scale like this one key or value overflows in a cache of F16; real ones stay below 1
_HUGE_SCALE, _HUGE_E8M0 = (15 + 5) << 10, 127 + 5
_SPARSE_BY_NATURE: Final = (
    "token_embd",
    "output.weight",
    ".bias",
    "per_layer_token_embd",
)  # rows of unused tokens are zero


def check(source: ByteSource, header: Header) -> Iterator[Finding]:
    """Read all tensor data and yield what is wrong with it, a few findings at most. The source must be that of the
    header.
    """
    scan = WeightsScan(header)
    position = header.data_offset
    while position < header.data_end and not scan.has_seen_enough:
        data = source.read_at(position, min(_CHUNK_BYTES, header.data_end - position))
        if not data:
            break
        scan.take(position, memoryview(data))
        position += len(data)
    yield from scan.findings()


class WeightsScan:
    """The same for who reads the file anyway, as to hash it: `take` is given its bytes in order, `findings` tells."""

    def __init__(self, header: Header) -> None:
        self._header = header
        self._tensors = deque(header.tensors)
        self._current = _TensorScan(self._tensors[0], header) if self._tensors else None
        self._found: list[Finding] = []
        self._position = header.data_offset

    @property
    def has_seen_enough(self) -> bool:
        """Whether so much is wrong that the rest need not be read."""
        return len(self._found) >= _MOST_FINDINGS

    def take(self, offset: int, block: memoryview) -> None:
        """Take the bytes of the file at `offset`, which follow those that were taken before. What is no tensor data is
        passed over."""
        end = self._position = offset + len(block)
        while self._current and not self.has_seen_enough:
            scan = self._current
            if end <= scan.start:
                return
            scan.take(block[max(0, scan.start - offset) : scan.end - offset])
            if end < scan.end:
                return
            self._found += scan.findings()
            self._tensors.popleft()
            self._current = _TensorScan(self._tensors[0], self._header) if self._tensors else None

    def findings(self) -> Iterator[Finding]:
        """What is wrong with what was taken, and that it is not all there."""
        yield from self._found
        if self.has_seen_enough:
            message = f"{len(self._found)} tensors have bad data, and the rest of the file was not looked at"
            yield Finding("gguf.weights.many", Severity.REJECT, message, self._found[-1].where, FETCH_AGAIN)
        elif self._current:
            at = self._position
            message = f"the data of {self._current.tensor.name!r} ends at byte {at}, before {self._current.end}"
            yield Finding("gguf.weights.truncated", Severity.REJECT, message, f"byte {at}", FETCH_AGAIN)


class _TensorScan:
    """The data of one tensor, taken in pieces of any length and looked at in whole blocks and whole pages."""

    def __init__(self, tensor: Tensor, header: Header) -> None:
        self.tensor = tensor
        self.start = header.data_offset + tensor.offset
        self.end = self.start + tensor.size_bytes
        self._step = tensor.type.block_bytes * _PAGE_BYTES
        self._rest = bytearray()
        self._position = self.start
        self._bad: int | None = None
        self._zero: list[npt.NDArray[np.bool_]] = []

    def take(self, piece: memoryview) -> None:
        if self._rest:
            missing = self._step - len(self._rest)
            self._rest += piece[:missing]
            piece = piece[missing:]
            if len(self._rest) < self._step:
                return
            self._look(memoryview(self._rest))
            self._rest = bytearray()  # a new one: numpy may still hold the old one
        whole = len(piece) // self._step * self._step
        self._look(piece[:whole])
        self._rest += piece[whole:]

    def findings(self) -> Iterator[Finding]:
        """When all of it was taken."""
        self._look(memoryview(self._rest))
        if self._bad is not None:
            message = (
                f"a value or scale of {self.tensor.name!r} is infinite, not a number, or too large to compute with"
            )
            yield Finding("gguf.weights.finite", Severity.REJECT, message, f"byte {self._bad}", FETCH_AGAIN)
        else:
            yield from _check_zeros(self.tensor, np.concatenate(self._zero), self.start)

    def _look(self, data: memoryview) -> None:
        if data and self._bad is None:
            rows = np.frombuffer(data, dtype=np.uint8).reshape(-1, self.tensor.type.block_bytes)
            bad = _first_not_finite(rows, self.tensor.type)
            if bad is not None:
                self._bad = self._position + bad * self.tensor.type.block_bytes
            self._zero.append(_zero_pages(rows.reshape(-1)))
        self._position += len(data)


def _check_zeros(tensor: Tensor, zero: npt.NDArray[np.bool_], start: int) -> Iterator[Finding]:
    if zero.all():
        decisive = tensor.name.endswith("norm.weight") or tensor.name in _DECISIVE
        severity = Severity.REJECT if decisive else Severity.WARN
        if tensor.size_bytes >= HOLE_BYTES:
            severity = Severity.REJECT
        if not tensor.name.endswith(".bias"):
            message = f"all {tensor.size_bytes} bytes of {tensor.name!r} are zero"
            yield Finding("gguf.weights.zero", severity, message, f"byte {start}", FETCH_AGAIN)
        return
    first, length = _longest_run(zero)
    if length * _PAGE_BYTES >= HOLE_BYTES and not any(part in tensor.name for part in _SPARSE_BY_NATURE):
        message = f"{length * _PAGE_BYTES} bytes in a row of {tensor.name!r} are zero"
        yield Finding("gguf.weights.hole", Severity.REJECT, message, f"byte {start + first * _PAGE_BYTES}", FETCH_AGAIN)


def _first_not_finite(rows: _Bytes, kind: GgmlType) -> int | None:
    """The first row (a block) with an infinity, or something that is no number, among its values or scales."""
    if kind in _SCALES:
        wrong = np.zeros(len(rows), dtype=np.bool_)
        for offset in _SCALES[kind]:
            wrong |= _is_huge_scale(rows[:, offset : offset + 2].copy().view("<u2")[:, 0])
    elif kind is GgmlType.F16:
        wrong = _all_ones(rows.view("<u2")[:, 0], _EXPONENT_F16)
    elif kind is GgmlType.BF16:
        wrong = np.asarray((rows.view("<u2")[:, 0] & _EXPONENT_BF16) >= _HUGE_BF16)
    elif kind is GgmlType.F32:
        wrong = np.asarray((rows.view("<u4")[:, 0] & _EXPONENT_F32) >= _HUGE_F32)
    elif kind is GgmlType.MXFP4:
        wrong = rows[:, 0] >= _HUGE_E8M0  # a power of two; 255 is no number
    elif kind is GgmlType.IQ1_M:
        parts = rows[:, 48:56].copy().view("<u2")  # the scale is spread over the top four bits of each
        wrong = _is_huge_scale(_scale_of_iq1_m(parts))
    else:
        return None
    return int(wrong.argmax()) if wrong.any() else None


def _all_ones(numbers: npt.NDArray[np.uint16] | npt.NDArray[np.uint32], mask: int) -> npt.NDArray[np.bool_]:
    return np.asarray((numbers & mask) == mask)


def _is_huge_scale(numbers: npt.NDArray[np.uint16]) -> npt.NDArray[np.bool_]:
    return np.asarray((numbers & _EXPONENT_F16) >= _HUGE_SCALE)


def _scale_of_iq1_m(parts: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    """The F16 whose four digits are the top digits of the four numbers in each row, the lowest first."""
    digits = parts >> 12
    return np.asarray(digits[:, 0] | digits[:, 1] << 4 | digits[:, 2] << 8 | digits[:, 3] << 12, dtype=np.uint16)


def _zero_pages(data: _Bytes) -> npt.NDArray[np.bool_]:
    """For each page of the data whether it is all zeros; a shorter one at the end counts as a page."""
    whole = len(data) // _PAGE_BYTES * _PAGE_BYTES
    zero = ~np.asarray(data[:whole].reshape(-1, _PAGE_BYTES).any(axis=1))
    return np.append(zero, not data[whole:].any()) if whole < len(data) else zero


def _longest_run(flags: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """Where the longest run of true flags begins, and how long it is."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False])).astype(np.int8)))
    starts, ends = edges[::2], edges[1::2]
    if not len(starts):
        return 0, 0
    longest = int((ends - starts).argmax())
    return int(starts[longest]), int(ends[longest] - starts[longest])
