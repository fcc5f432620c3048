"""A program that opens and reads a promoted model repeatedly, until its standard input ends.

    python -m tests.support.model_reader ROOT

It reads through the promoted link in each way that a reader may: a file by its path, all files below the resolved
directory, and all files relative to an open directory. It prints a JSON object: the number of rounds, and the problems
found.
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
    rounds, problems = 0, list[str]()
    while not select.select([sys.stdin], [], [], 0)[0]:
        rounds += 1
        problems += _read_all(pointer)
    print(json.dumps({"rounds": rounds, "problems": problems[:5], "count": len(problems)}))


def _read_all(pointer: Path) -> Iterator[str]:
    for read in (_one_file, _resolved, _from_descriptor):
        try:
            contents = read(pointer)
        except OSError as error:
            yield f"{read.__name__}: {error}"
            continue
        if not any(
            all(revision[path] == content for path, content in contents.items()) for revision in CONTENTS.values()
        ):
            yield f"{read.__name__}: files of several revisions, or of no known one"


def _one_file(pointer: Path) -> dict[str, bytes]:
    return {"m.gguf": (pointer / "m.gguf").read_bytes()}


def _resolved(pointer: Path) -> dict[str, bytes]:
    directory = pointer.resolve(strict=True)
    return {path: (directory / path).read_bytes() for path in CONTENTS["a"]}


def _from_descriptor(pointer: Path) -> dict[str, bytes]:
    directory = os.open(pointer, os.O_RDONLY | os.O_DIRECTORY)
    try:
        contents = {}
        for path in CONTENTS["a"]:
            with os.fdopen(os.open(path, os.O_RDONLY, dir_fd=directory), "rb") as file:
                contents[path] = file.read()
        return contents
    finally:
        os.close(directory)


if __name__ == "__main__":
    main()
