"""Record what reading a volume leaves behind: leases, usage, reports, remembered commits.

Reading never needs a write: on a volume that is read-only or full, a model is served and benchmarked all the same, and
nothing is recorded.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from paddock.errors import PaddockError
from paddock.store.durable import was_refused

log = logging.getLogger(__name__)
_WARNED: set[Path] = set()
"""Roots of the volumes on which nothing could be recorded: each is warned about once in a process."""


@contextmanager
def recording(root: Path) -> Iterator[None]:
    """Run a block that records something on the volume. Where nothing can be written, the block ends there, with one
    warning for the whole process. Other errors are raised."""
    try:
        yield
    except PaddockError as error:
        if not was_refused(error):
            raise
        if root not in _WARNED:
            _WARNED.add(root)
            log.warning("nothing is recorded on the volume (no lease, usage or report): %s", error.message)
