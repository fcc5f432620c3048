"""Files of other formats, which downloads and repositories hold in place of a GGUF."""

from __future__ import annotations

import struct

NOT_GGUF: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "html": (b"<!DOCTYPE html>\n<html><body>503</body></html>", "HTML"),
    "lfs-pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "LFS"),
    "json": (b'{"error": "Repository not found"}', "JSON"),
    "safetensors": (struct.pack("<Q", 64) + b'{"__metadata__":{}}' + bytes(64), "SafeTensors"),
    "zip": (b"PK\x03\x04" + bytes(30), "zip"),
    "gzip": (b"\x1f\x8b\x08" + bytes(30), "gzip"),
    "pickle": (b"\x80\x02}q\x00." + bytes(30), "pickle"),
    "elf": (b"\x7fELF\x02\x01\x01" + bytes(30), "ELF"),
    "old-ggml": (b"tjgg" + bytes(30), "GGJT"),
    "zeros": (bytes(64), "zeros"),
    "text": (b"hello world", "begins with"),
    "two-bytes": (b"GG", "begins with"),
}
"""Files that are not GGUF: their bytes, and the word that the error message must contain."""
