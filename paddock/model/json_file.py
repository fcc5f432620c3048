"""Read JSON files that a model's uploader wrote, such as `config.json`.

The engine never reads these files, so one that cannot be used is no error: it is read as empty, and the reason is
returned for a warning. Nothing in them is trusted.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any, Final

from paddock.untrusted.content import UnusableContent
from paddock.untrusted.files import read_head
from paddock.untrusted.json_text import kind_of, parse_json

MAX_JSON_BYTES: Final = 16 * 1024 * 1024
"""A larger file is not parsed: Python takes up to 30 times its size."""
_MAX_VALUES: Final = 4_000_000  # a tokenizer.json of this size has a million
_LFS_POINTER: Final = b"version https://git-lfs"
_NOTHING, _TOO_LARGE = object(), object()


def read_json_object(path: Path) -> tuple[dict[str, Any], str | None]:
    """(The object in a JSON file, None), or (an empty one, the reason why the file cannot be used). A file that does
    not exist is an empty object without a reason."""
    value, problem = _read(path)
    if isinstance(value, dict):
        return value, None
    if value is _TOO_LARGE:
        problem = f"it is larger than {MAX_JSON_BYTES} bytes"
    elif value is not _NOTHING:
        problem = f"an object was expected, and it holds {kind_of(value)}"
    return {}, problem


def file_problem(path: Path) -> str | None:
    """The reason why a small file beside a model cannot be used, or None: it is not a regular file, unreadable, empty,
    or a Git LFS pointer, or its name ends in `.json` and its contents are not JSON. JSON above MAX_JSON_BYTES is not
    parsed."""
    _, problem = _read(path) if path.suffix.lower() == ".json" else _head(path)
    return problem


def _read(path: Path) -> tuple[object, str | None]:
    """(The value in a JSON file, the reason why it cannot be used). The value is one of the marks above where nothing
    was parsed."""
    data, problem = _head(path)
    if data is None or problem is not None:
        return _NOTHING, problem
    if len(data) > MAX_JSON_BYTES:
        return _TOO_LARGE, None
    try:
        return parse_json(data, max_bytes=MAX_JSON_BYTES, max_values=_MAX_VALUES, strict=False), None
    except UnusableContent as error:
        return _NOTHING, error.reason


def _head(path: Path) -> tuple[bytes | None, str | None]:
    """(The first MAX_JSON_BYTES + 1 bytes of a file, the reason why it cannot be used); no bytes if it does not
    exist. A link is followed: a snapshot's files may be links to its blobs."""
    try:
        data = read_head(path, max_bytes=MAX_JSON_BYTES + 1, follow=True)
    except UnusableContent as error:
        return None, error.reason
    except FileNotFoundError:
        return None, None
    except PermissionError:
        return None, "there is no permission to read it"
    except OSError as error:
        loop = error.errno == errno.ELOOP
        return None, "it is a link that leads back to itself" if loop else f"it cannot be read: {error.strerror}"
    if not data or data.isspace():
        return data, "it is empty"
    return data, "it is a Git LFS pointer and not the file itself" if data.startswith(_LFS_POINTER) else None
