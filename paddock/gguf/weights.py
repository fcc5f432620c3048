"""Check the tensor data for non-finite values and scales, tensors of zeros, and long runs of zero bytes.

A *scale* is the number by which the integers of a quantized block are multiplied. If one scale is infinite or NaN, so
is the model's output; the same happens if one weight is large enough to overflow in the layers after it. A *hole* is a
long run of zero bytes, as in a file that was preallocated and never fully written.

All-zero *residual outputs* (`attn_output`, `ffn_down`, ...), the last matrices of a layer's branches, are a warning:
with them a layer passes its input on unchanged. Depth-upscaled models are published with such layers.

The data is read once, in order, in chunks, so memory use does not depend on the file size. Numbers are tested by their
bit patterns, as in ggml_validate_row_data. Whether the weights are those that the author published is verified by the
file's digest, not here.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from paddock.gguf.format import GgmlType
from paddock.gguf.header import Header, Tensor
from paddock.gguf.source import CURE_DOWNLOAD_AGAIN, ByteSource
from paddock.gguf.split import shard_info
from paddock.model.finding import Finding, Severity

HOLE_BYTES: Final = 1 << 20
"""Runs of at least this many zero bytes are reported as holes. Shorter ones occur in pruned rows."""

_CHUNK_BYTES: Final = 8 << 20
_PAGE_BYTES: Final = 4096
_MAX_FINDINGS: Final = 8
_SCALE_OFFSETS: Final = {
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
"""Byte offsets of the F16 scales in a block. IQ1_M and MXFP4 store theirs differently; NVFP4 accepts every byte."""

_RESIDUAL_OUTPUT: Final = re.compile(
    r"(?:(?:enc|dec)\.)?blk\.\d+\.(?:attn_output|(?:cross_)?attn_o|ffn_down(?:\.\d+|_exps|_shexp|_chexps)?|ssm_out"
    r"|time_mix_output|channel_mix_value|shortconv\.out_proj)\.weight"
)
# with zeros in one of these, every prompt gives the same output
_ESSENTIAL_TENSORS: Final = frozenset({"token_embd.weight", "output.weight"})

_Bytes = npt.NDArray[np.uint8]
# the exponent bits: all set in infinities and NaNs
_EXPONENT_F16, _EXPONENT_BF16, _EXPONENT_F32 = 0x7C00, 0x7F80, 0x7F800000
# the exponent of 2^40: a weight this large overflows within a few layers; real weights are below 2^16
_HUGE_BF16, _HUGE_F32 = (127 + 40) << 7, (127 + 40) << 23
# the exponent of 2^5: with a scale this large, a key or value overflows in an F16 KV cache; real scales are below 1
_HUGE_SCALE, _HUGE_E8M0 = (15 + 5) << 10, 127 + 5
# rows of unused tokens are zero
_MAY_HAVE_HOLES: Final = ("token_embd", "output.weight", ".bias", "per_layer_token_embd")


def check(source: ByteSource, header: Header) -> Iterator[Finding]:
    """Read all tensor data and yield findings; stops after 8 tensors with bad data. `source` must be the file that
    `header` was read from.
    """
    scan = WeightsScan(header)
    position = header.data_offset
    while position < header.data_end and not scan.is_limit_reached:
        data = source.read_at(position, min(_CHUNK_BYTES, header.data_end - position))
        if not data:
            break
        scan.feed(position, memoryview(data))
        position += len(data)
    yield from scan.findings()


class WeightsScan:
    """Incremental variant of `check`, for callers that already stream the file, for example to hash it.

    Call `feed` with the file's bytes in order, then `findings`.
    """

    def __init__(self, header: Header) -> None:
        self._header = header
        self._tensors = deque(header.tensors)
        self._current = _TensorScan(self._tensors[0], header) if self._tensors else None
        self._findings: list[Finding] = []
        self._zero_outputs: list[_TensorScan] = []
        self._position = header.data_offset

    @property
    def is_limit_reached(self) -> bool:
        """Whether the limit of findings is reached, so that the rest of the file need not be read."""
        return len(self._findings) >= _MAX_FINDINGS

    def feed(self, offset: int, block: memoryview) -> None:
        """Process the file's bytes at `offset`, which must continue the previous call. Bytes outside of tensor data are
        skipped.
        """
        end = self._position = offset + len(block)
        while self._current and not self.is_limit_reached:
            scan = self._current
            if end <= scan.start:
                return
            scan.feed(block[max(0, scan.start - offset) : scan.end - offset])
            if end < scan.end:
                return
            if scan.is_zero and _RESIDUAL_OUTPUT.fullmatch(scan.tensor.name):
                self._zero_outputs.append(scan)
            else:
                self._findings += scan.findings()
            self._tensors.popleft()
            self._current = _TensorScan(self._tensors[0], self._header) if self._tensors else None

    def findings(self) -> Iterator[Finding]:
        """Yield the findings so far, and one for truncated data if the last tensor is incomplete."""
        yield from self._check_zero_outputs()
        yield from self._findings
        if self.is_limit_reached:
            message = f"{len(self._findings)} tensors have bad data; the rest of the file was not checked"
            yield Finding("gguf.weights.many", Severity.REJECT, message, self._findings[-1].where, CURE_DOWNLOAD_AGAIN)
        elif self._current:
            at = self._position
            message = f"the data of {self._current.tensor.name!r} ends at byte {at}, expected {self._current.end}"
            yield Finding("gguf.weights.truncated", Severity.REJECT, message, f"byte {at}", CURE_DOWNLOAD_AGAIN)

    def _check_zero_outputs(self) -> Iterator[Finding]:
        """Yield one finding for all residual outputs of zeros: a rejection if no layer of a whole model has another."""
        if not self._zero_outputs:
            return
        first, count = self._zero_outputs[0], len(self._zero_outputs)
        all_outputs = sum(1 for tensor in self._header.tensors if _RESIDUAL_OUTPUT.fullmatch(tensor.name))
        if count == all_outputs > 1 and shard_info(self._header) is None:
            message = f"all {count} outputs of the layers are zero, so that no layer has an effect"
            yield Finding("gguf.weights.zero", Severity.REJECT, message, f"byte {first.start}", CURE_DOWNLOAD_AGAIN)
            return
        message = (
            f"{count} outputs of layers are zero, the first is {first.tensor.name!r}: these layers pass on their input"
            " unchanged, as the added layers of depth-upscaled models do"
        )
        cure = "compare the file's sha256 with its publisher's, if the model is not meant to have such layers"
        yield Finding("gguf.weights.zero-layer", Severity.WARN, message, f"byte {first.start}", cure)


class _TensorScan:
    """Scan one tensor. It is fed in pieces of any length, and checked in multiples of whole blocks and pages."""

    def __init__(self, tensor: Tensor, header: Header) -> None:
        self.tensor = tensor
        self.start = header.data_offset + tensor.offset
        self.end = self.start + tensor.size_bytes
        self._step = tensor.type.block_bytes * _PAGE_BYTES
        self._pending = bytearray()
        self._position = self.start
        self._first_bad_offset: int | None = None
        self._zero_pages: list[npt.NDArray[np.bool_]] = []

    def feed(self, piece: memoryview) -> None:
        if self._pending:
            missing = self._step - len(self._pending)
            self._pending += piece[:missing]
            piece = piece[missing:]
            if len(self._pending) < self._step:
                return
            self._scan(memoryview(self._pending))
            self._pending = bytearray()  # not cleared: numpy may still reference the old buffer
        whole = len(piece) // self._step * self._step
        self._scan(piece[:whole])
        self._pending += piece[whole:]

    @property
    def is_zero(self) -> bool:
        """Whether every byte is zero. All of the data must have been fed."""
        self._flush()
        return self._first_bad_offset is None and all(pages.all() for pages in self._zero_pages)

    def findings(self) -> Iterator[Finding]:
        """Yield the findings on this tensor, after all of its data was fed."""
        self._flush()
        if self._first_bad_offset is not None:
            message = f"a value or scale of {self.tensor.name!r} is infinite, NaN, or so large that it overflows"
            yield Finding(
                "gguf.weights.finite", Severity.REJECT, message, f"byte {self._first_bad_offset}", CURE_DOWNLOAD_AGAIN
            )
        else:
            yield from _check_zeros(self.tensor, np.concatenate(self._zero_pages), self.start)

    def _flush(self) -> None:
        self._scan(memoryview(self._pending))
        self._pending = bytearray()

    def _scan(self, data: memoryview) -> None:
        if data and self._first_bad_offset is None:
            rows = np.frombuffer(data, dtype=np.uint8).reshape(-1, self.tensor.type.block_bytes)
            bad = _first_not_finite(rows, self.tensor.type)
            if bad is not None:
                self._first_bad_offset = self._position + bad * self.tensor.type.block_bytes
            self._zero_pages.append(_zero_pages(rows.reshape(-1)))
        self._position += len(data)


def _check_zeros(tensor: Tensor, zero: npt.NDArray[np.bool_], start: int) -> Iterator[Finding]:
    if zero.all():
        essential = tensor.name.endswith("norm.weight") or tensor.name in _ESSENTIAL_TENSORS
        severity = Severity.REJECT if essential else Severity.WARN
        if tensor.size_bytes >= HOLE_BYTES:
            severity = Severity.REJECT
        if not tensor.name.endswith(".bias"):
            message = f"all {tensor.size_bytes} bytes of {tensor.name!r} are zero"
            yield Finding("gguf.weights.zero", severity, message, f"byte {start}", CURE_DOWNLOAD_AGAIN)
        return
    first, length = _longest_run(zero)
    if length * _PAGE_BYTES >= HOLE_BYTES and not any(part in tensor.name for part in _MAY_HAVE_HOLES):
        message = f"{length * _PAGE_BYTES} consecutive bytes of {tensor.name!r} are zero"
        yield Finding(
            "gguf.weights.hole", Severity.REJECT, message, f"byte {start + first * _PAGE_BYTES}", CURE_DOWNLOAD_AGAIN
        )


def _first_not_finite(rows: _Bytes, kind: GgmlType) -> int | None:
    """Return the index of the first row (one block) with a non-finite or too large value or scale, or None."""
    if kind in _SCALE_OFFSETS:
        wrong = np.zeros(len(rows), dtype=np.bool_)
        for offset in _SCALE_OFFSETS[kind]:
            wrong |= _is_huge_scale(rows[:, offset : offset + 2].view("<u2")[:, 0])
    elif kind is GgmlType.F16:
        wrong = _has_all_bits(rows.view("<u2")[:, 0], _EXPONENT_F16)
    elif kind is GgmlType.BF16:
        wrong = np.asarray((rows.view("<u2")[:, 0] & _EXPONENT_BF16) >= _HUGE_BF16)
    elif kind is GgmlType.F32:
        wrong = np.asarray((rows.view("<u4")[:, 0] & _EXPONENT_F32) >= _HUGE_F32)
    elif kind is GgmlType.MXFP4:
        wrong = rows[:, 0] >= _HUGE_E8M0  # a power of two; 255 is NaN
    elif kind is GgmlType.IQ1_M:
        parts = rows[:, 48:56].view("<u2")  # the scale is spread over the top four bits of each number
        wrong = _is_huge_scale(_scale_of_iq1_m(parts))
    else:
        return None
    return int(wrong.argmax()) if wrong.any() else None


def _has_all_bits(numbers: npt.NDArray[np.uint16] | npt.NDArray[np.uint32], mask: int) -> npt.NDArray[np.bool_]:
    return np.asarray((numbers & mask) == mask)


def _is_huge_scale(numbers: npt.NDArray[np.uint16]) -> npt.NDArray[np.bool_]:
    return np.asarray((numbers & _EXPONENT_F16) >= _HUGE_SCALE)


def _scale_of_iq1_m(parts: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    """Assemble the F16 scale whose four hexadecimal digits are the top digits of the four numbers in each row, lowest
    first.
    """
    digits = parts >> 12
    return np.asarray(digits[:, 0] | digits[:, 1] << 4 | digits[:, 2] << 8 | digits[:, 3] << 12, dtype=np.uint16)


def _zero_pages(data: _Bytes) -> npt.NDArray[np.bool_]:
    """Return for each page whether it is all zeros. An incomplete page at the end counts as a page."""
    whole = len(data) // _PAGE_BYTES * _PAGE_BYTES
    pages = data[:whole].view("<u8").reshape(-1, _PAGE_BYTES // 8)
    zero = np.asarray(pages[:, 0] == 0)  # few begin so: the others need not be read
    begin_so = np.flatnonzero(zero)
    zero[begin_so] = ~pages[begin_so].any(axis=1)
    return np.append(zero, not data[whole:].any()) if whole < len(data) else zero


def _longest_run(flags: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """Return the start and length of the longest run of true flags, (0, 0) if there is none."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False])).astype(np.int8)))
    starts, ends = edges[::2], edges[1::2]
    if not len(starts):
        return 0, 0
    longest = int((ends - starts).argmax())
    return int(starts[longest]), int(ends[longest] - starts[longest])
