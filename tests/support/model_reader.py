"""A program that opens and reads a model again and again, until its standard input ends.

    python -m tests.support.model_reader ROOT

It goes by way of the promoted pointer in each way that a reader may: a file by its path, all files below the directory
that the pointer shows, and all files from a directory that is open. It prints a JSON object: how often it read, and
what it met that must not be.
"""

from __future__ import annotations

import json
import os
import select
import sys
from collections.abc import Iterator
from pathlib import Path

from paddock.store.volume import Volume
from tests.support.stores import MODEL

CONTENTS = {
    name: {"m.gguf": name.encode() * 50_000, "deep/config.json": name.encode() * 100, "tokenizer.json": name.encode()}
    for name in ("a", "b", "c")
}


def main() -> None:
    pointer = Volume(Path(sys.argv[1])).model_path(MODEL)
    turns, problems = 0, list[str]()
    while not select.select([sys.stdin], [], [], 0)[0]:
        turns += 1
        problems += _look(pointer)
    print(json.dumps({"turns": turns, "problems": problems[:5], "count": len(problems)}))


def _look(pointer: Path) -> Iterator[str]:
    for way in (_one_file, _resolved, _from_descriptor):
        try:
            seen = way(pointer)
        except OSError as error:
            yield f"{way.__name__}: {error}"
            continue
        if not any(all(known[path] == content for path, content in seen.items()) for known in CONTENTS.values()):
            yield f"{way.__name__}: files of several revisions, or of none"


def _one_file(pointer: Path) -> dict[str, bytes]:
    return {"m.gguf": (pointer / "m.gguf").read_bytes()}


def _resolved(pointer: Path) -> dict[str, bytes]:
    directory = pointer.resolve(strict=True)
    return {path: (directory / path).read_bytes() for path in CONTENTS["a"]}


def _from_descriptor(pointer: Path) -> dict[str, bytes]:
    directory = os.open(pointer, os.O_RDONLY | os.O_DIRECTORY)
    try:
        seen = {}
        for path in CONTENTS["a"]:
            with os.fdopen(os.open(path, os.O_RDONLY, dir_fd=directory), "rb") as file:
                seen[path] = file.read()
        return seen
    finally:
        os.close(directory)


if __name__ == "__main__":
    main()
