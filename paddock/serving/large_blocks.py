"""Let freed blocks of memory go back to the operating system at once, if they are large.

The C library keeps a freed block for the next one of its size, and raises the size from which it does not with each
larger block that is freed, up to 32 MiB. So a server that once held a few bodies of some MiB, beside others, would keep
the memory of all their copies.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Final

_THRESHOLD_BYTES: Final = 256 * 1024
_M_MMAP_THRESHOLD: Final = -3
"""From malloc.h of the GNU C library; a value that is set does not rise any more (mallopt(3))."""


def return_large_blocks() -> None:
    """Return freed blocks of 256 KiB or more at once, in this process from now on. Only where the C library is GNU's;
    others do it anyway."""
    with suppress(AttributeError, OSError):  # no mallopt
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _THRESHOLD_BYTES)
