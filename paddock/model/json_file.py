"""Read JSON files that a model's uploader wrote, such as `config.json`.

The engine never reads these files, so one that cannot be used is no error: it is read as empty, and the reason is
returned for a warning. Nothing in them is trusted.
"""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any, Final

MAX_JSON_BYTES: Final = 16 * 1024 * 1024
"""A larger file is not parsed: Python takes up to 30 times its size."""
_LFS_POINTER: Final = b"version https://git-lfs"
_NAMES: Final = {
    list: "a list",
    str: "a text",
    bool: "a truth value",
    int: "a number",
    float: "a number",
    type(None): "null",
}
_NOTHING, _TOO_LARGE = object(), object()


def read_json_object(path: Path) -> tuple[dict[str, Any], str | None]:
    """(The object in a JSON file, None), or (an empty one, the reason why the file cannot be used). A file that does
    not exist is an empty object without a reason."""
    value, problem = _read(path)
    if isinstance(value, dict):
        return value, None
    if value is _TOO_LARGE:
        problem = f"it is larger than {MAX_JSON_BYTES} bytes"
    elif type(value) in _NAMES:
        problem = f"an object was expected, and it holds {_NAMES[type(value)]}"
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
        return json.loads(data.decode("utf-8-sig")), None
    except json.JSONDecodeError as error:
        problem = f"it is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
    except UnicodeDecodeError:
        problem = "it is not UTF-8"
    except ValueError as error:  # a number with thousands of digits
        problem = f"it is not JSON: {str(error)[:120]}"
    except RecursionError:
        problem = "it is nested too deeply"
    return _NOTHING, problem


def _head(path: Path) -> tuple[bytes | None, str | None]:
    """(The first MAX_JSON_BYTES + 1 bytes of a file, the reason why it cannot be used); no bytes if it does not
    exist."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # opening a named pipe would wait for a writer
            return None, "it is a directory" if stat.S_ISDIR(mode) else "it is not a regular file"
        with path.open("rb") as file:
            data = file.read(MAX_JSON_BYTES + 1)
    except FileNotFoundError:
        return None, None
    except PermissionError:
        return None, "there is no permission to read it"
    except OSError as error:
        return None, f"it cannot be read: {error.strerror}"
    if not data or data.isspace():
        return data, "it is empty"
    return data, "it is a Git LFS pointer and not the file itself" if data.startswith(_LFS_POINTER) else None
