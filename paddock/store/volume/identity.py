"""The volume's identity: a random name that it gets once, by which a remote store knows what it has.

Host names and paths do not serve for it: several hosts may mount one volume, and a container has a new name each time.
"""

from __future__ import annotations

import os
import re

from paddock.store.durable import disk_errors, remove, rename_noreplace, staging_name, write_new
from paddock.store.volume.layout import Layout
from paddock.untrusted.content import UnusableContent

_NAME = re.compile(rb"[0-9a-f]{16}")


class Identity:
    def __init__(self, layout: Layout) -> None:
        self.root = layout.root
        self._layout = layout

    @disk_errors
    def name(self) -> str:
        """The 16 hexadecimal digits of the volume, which are made by the first call. Raises NoPermission where they
        would have to be made on a volume that cannot be written."""
        path = self._layout.identity
        while (known := self.known()) is None:
            remove(path)  # what is no name
            staged = staging_name(self._layout.make_directory(self._layout.private))
            try:
                write_new(staged, os.urandom(8).hex().encode())
                rename_noreplace(staged, path)
            except FileExistsError:  # another process made it
                continue
            finally:
                staged.unlink(missing_ok=True)
        return known

    @disk_errors
    def known(self) -> str | None:
        """The same; None where the volume has none yet."""
        try:
            content = self._layout.read(self._layout.identity, max_bytes=64).strip()
        except (FileNotFoundError, UnusableContent):
            return None
        return content.decode() if _NAME.fullmatch(content) else None
