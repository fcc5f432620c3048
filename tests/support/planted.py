"""A volume and a bucket with every kind of document, and hostile ones to plant in their places.

`build` makes two models in `home / "models"` and in `home / "bucket"`. `Planter` puts something that another user of
the volume, or of the bucket, might have written into the place of one document of the first model.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from paddock.chat.template import CHAT_FILE, TEMPLATE_FILE, ChatFormat
from paddock.lifecycle import reports
from paddock.lifecycle.assess.validate import VALIDATION_REPORT
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.promote.approval import APPROVAL, Approval, Decision
from paddock.lifecycle.upkeep import volume_use
from paddock.model.artifact import Manifest
from paddock.model.names import ModelName
from paddock.store import durable
from paddock.store.copying import push
from paddock.store.holdings import Holdings
from paddock.store.usage import Usage
from paddock.store.volume.verifications import ScrubProgress
from tests.support.benchmarks import a_benchmark, a_quality
from tests.support.dossier_facts import GATES, NOW, VALIDATION
from tests.support.stores import A, B, file_of, id_of, manifest_of, put_blobs
from tests.support.tiny_hub import CONFIG, tiny_model

MODEL: Final = ModelName.parse("org/tiny")
OTHER: Final = ModelName.parse("org/other")
TEMPLATE: Final = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SECRET: Final = "a secret outside of the volume"
_HUGE_BYTES: Final = 2**31


def build(clients: Clients, home: Path) -> Manifest:
    """Make the two models with all their documents, and the directory `outside`. Returns the first one's manifest."""
    outside = home / "outside"
    (outside / "directory" / str(A)).mkdir(parents=True)
    for path in (outside / "note.json", outside / "directory" / "note", outside / "directory" / str(A) / "Q8_0"):
        path.write_text(SECRET)
    chat = ChatFormat(TEMPLATE, "the GGUF", "the model brings it", "<s>", "</s>", ("<|im_end|>",))
    manifests = []
    clients.volume.prepare()
    for model in (OTHER, MODEL):
        contents = {
            "tiny-Q8_0.gguf": tiny_model(name=str(model)),
            "config.json": CONFIG,
            "tokenizer_config.json": b'{"model_max_length": 256}',
            "README.md": b"---\nlicense: mit\n---\n",
            TEMPLATE_FILE: TEMPLATE.encode(),
            CHAT_FILE: chat.to_json().encode(),
        }
        for revision in (B, A):
            manifest = manifest_of(revision, contents, model=model)
            manifest = replace(
                manifest, template_sha256=file_of(TEMPLATE_FILE, TEMPLATE.encode()).sha256, licence="mit"
            )
            put_blobs(clients.volume, manifest, contents, home)
            clients.volume.publish(manifest)
            clients.volume.promote(manifest.id, reason="pulled")
            manifests.append(manifest)
        assert clients.remote is not None
        push(clients.volume, clients.remote, manifest)
        clients.remote.promote([manifest.id], default=manifest.id)
        _record(clients, manifest)
    return manifests[-1]


def _record(clients: Clients, manifest: Manifest) -> None:
    """Write a document of each kind about a snapshot."""
    volume, remote = clients.volume, clients.remote
    assert remote is not None
    id, blob = manifest.id, next(file.sha256 for file in manifest.files if file.path.endswith(".gguf"))
    for name, value in {
        VALIDATION_REPORT: VALIDATION.to_json(),
        "benchmark.json": a_benchmark().to_json(),
        "quality.json": a_quality(0.02, model=str(id), reference=str(id_of(B, model=id.model))).to_json(),
        "gates.json": GATES.to_json(),
        APPROVAL: Approval.now(Decision.APPROVED, reason="it is better", by="a person").to_json(),
    }.items():
        reports.write(clients, manifest, name, value)
        reports.share(clients, manifest, name)
    volume_use.record(clients)
    volume.pins.add(id_of(B, model=id.model))
    volume.usage.add(id, "serve", Usage(2, 30, 50, 1, 60.0))
    volume.refs.remember(id.model, "main", id.revision)
    volume.verifications.record(blob)
    volume.verifications.save_progress(ScrubProgress(NOW, blob, "1-2", 1, (0,)))
    volume.remote_updates.finish(id.model, volume.remote_updates.pending(id.model))
    volume.tuning.write(blob, "a-machine.json", "{}")
    volume.notes.write("memory/llama.a.b.json", '[{"predicted_bytes": 1, "engine_bytes": 1, "system_bytes": null}]')
    remote.write_holdings("0123456789abcdef", Holdings("a volume", {id}, set(), {blob}))
    remote.write_usage("a-worker", "0123456789abcdef", b"".join(row.to_line() for row in volume.usage.rows()))
    remote.mark_blob(blob, None)
    with volume.maintenance_lock.hold(), volume.refresh_lock.hold():
        pass


@dataclass(frozen=True)
class Planted:
    """A planted document: its kind, its place in the volume or bucket, and the beginning of its content."""

    kind: str
    place: str
    content: str = ""


class Planter:
    """Plants one hostile document after another. `home` is that of `build`, of which a copy is kept to restore it."""

    def __init__(self, home: Path, *, seed: int) -> None:
        self._home = home
        self._kept = home.with_name(f"{home.name}.kept")
        self._random = random.Random(seed)
        _copy(home, self._kept)
        self.places = sorted(self._places())

    def restore(self) -> None:
        """Put the volume and the bucket back as they were."""
        for name in ("models", "bucket"):
            shutil.rmtree(self._home / name)
            _copy(self._kept / name, self._home / name)

    def take_back(self, planted: Planted) -> None:
        """Put one place back as it was."""
        path, kept = self._home / planted.place, self._kept / planted.place
        durable.remove(path)
        if kept.is_symlink() or kept.exists():
            _copy(kept, path)

    def plant(self, besides: Sequence[Planted] = ()) -> Planted:
        """Plant one document, in a place that neither holds those `besides` nor lies in one of them, and return what it
        is."""
        taken = [f"{one.place}/" for one in besides]
        free = [
            place
            for place in self.places
            if not any(f"{place}/".startswith(other) or other.startswith(f"{place}/") for other in taken)
        ]
        place = self._random.choice(free)
        path = self._home / place
        old = path.read_bytes() if path.is_file() and path.stat().st_size < 2**20 else b""
        in_bucket = place.startswith("bucket/")
        kinds = _CONTENTS if in_bucket or self._random.random() < 0.6 else _FILES
        kind = self._random.choice(sorted(kinds))
        content = b""
        durable.remove(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if kinds is _CONTENTS:
            content = _CONTENTS[kind](self._random, old)
            path.write_bytes(content)
        else:
            _FILES[kind](path, self._home / "outside")
        return Planted(kind, place, repr(content[:200]))

    def _places(self) -> list[str]:
        """The documents of the first model, and those of no model, in the volume and the bucket; some names that are
        not used yet; and the directories that hold them."""
        found = set[str]()
        for root in ("models", "bucket"):
            for path in (self._home / root).rglob("*"):
                place = path.relative_to(self._home).as_posix()
                is_prefix = root == "bucket" and path.is_dir()  # which is no object
                if OTHER.slug not in place and "/blobs/" not in place and not is_prefix:
                    found.add(place)
        found -= {"models/.paddock"}
        inner, snapshot = "models/.paddock", f"{MODEL.slug}/{A}/Q8_0"
        lost = "ab" * 32
        found |= {
            f"{inner}/leases/{MODEL.slug}/aaaa",
            f"{inner}/usage/2026-05-01/worker.jsonl",
            f"{inner}/usage/2026-04.jsonl",
            f"{inner}/reports/{snapshot}/pictures.json",
            f"{inner}/reports/{snapshot}/dossier.json",
            f"{inner}/reports/{snapshot}/a note",
            f"{inner}/reports/refresh/{MODEL.slug}.json",
            f"{inner}/partial/{lost}/token/journal",
            f"{inner}/partial/{lost}/token/data",
            f"{inner}/partial/{lost}",
            f"{inner}/quarantine/{lost}-01234567",
            f"{inner}/blobs/sha256/{lost[:2]}/{lost}",
            f"{inner}/blobs/sha256/zz",
            f"{inner}/snapshots/{MODEL.slug}/{A}/Q4_K_M/manifest.json",
            f"{inner}/snapshots/{MODEL.slug}/manifest.json",
            f"{inner}/snapshots/org--third/{A}/Q8_0/manifest.json",
            f"{inner}/history/org--third.jsonl",
            f"{inner}/docs/{snapshot}/index.html",
            f"{inner}/.staging-0123456789abcdef",
            f"models/{MODEL.slug}--Q4_K_M",
            "models/\udcff\udcfe",
            f"bucket/snapshots/{MODEL.slug}/{A}/Q4_K_M.json",
            f"bucket/leases/{lost}.json",
            f"bucket/marks/{lost}.json",
            "bucket/usage/silent.jsonl",
            "bucket/holdings/a name.json",
        }
        return list(found)


def _copy(source: Path, target: Path) -> None:
    """Copy a tree; large files, which no command changes in place, are shared by the copies."""
    if source.is_dir() and not source.is_symlink():
        target.mkdir()
        for path in source.iterdir():
            _copy(path, target / path.name)
    elif source.is_symlink():
        target.symlink_to(source.readlink())
    elif source.stat().st_nlink > 1 or "blobs" in source.parts:
        os.link(source, target)
    else:
        shutil.copy2(source, target)


def _huge(path: Path, _: Path) -> None:
    with path.open("wb") as file:
        file.write(b"{")
        file.truncate(_HUGE_BYTES)


def _full_directory(path: Path, _: Path) -> None:
    path.mkdir()
    (path / "manifest.json").write_text("{}")
    (path / ("0" * 40)).mkdir()


_FILES: Final[dict[str, Callable[[Path, Path], object]]] = {
    "a named pipe": lambda path, _: os.mkfifo(path),
    "a link to a file outside": lambda path, outside: path.symlink_to(outside / "note.json"),
    "a link to a directory outside": lambda path, outside: path.symlink_to(outside / "directory"),
    "a link to a device": lambda path, _: path.symlink_to("/dev/zero"),
    "a link to itself": lambda path, _: path.symlink_to(path.name),
    "a broken link": lambda path, _: path.symlink_to("nowhere"),
    "an empty directory": lambda path, _: path.mkdir(),
    "a directory with names": _full_directory,
    "a file of 2 GiB": _huge,
    "a hard link to a file outside": lambda path, outside: os.link(outside / "note.json", path),
}
_VALUES: Final[list[Any]] = [
    None,
    True,
    -1,
    0,
    2**63,
    10**40,
    -(10**30),
    1e308,
    "",
    "x" * 5000,
    "../../../outside/note.json",
    "/etc/passwd",
    "a\u0000b",
    "\ud800",
    "\u202e\x1b[31m[bold red]![x](http://h)",
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59-23:59",
    "9" * 400,
    [],
    {},
    [[[[]]]],
    {"a": {"a": {"a": 1}}},
    [None] * 50,
]


def _mutated(random: random.Random, old: bytes) -> bytes:
    """The document with one value replaced, removed or repeated, at any depth."""
    lines = old.splitlines() if old.startswith(b"{") and old.count(b"\n{") else [old]
    changed = []
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:
            return _garbage(random, old)
        changed.append(json.dumps(_change(random, value)).encode())
    return b"\n".join(changed) + b"\n"


def _change(random: random.Random, value: Any) -> Any:
    if isinstance(value, dict) and value and random.random() < 0.85:
        key = random.choice(sorted(value))
        if random.random() < 0.1:
            return {name: item for name, item in value.items() if name != key}
        return {**value, key: _change(random, value[key])}
    if isinstance(value, list) and value and random.random() < 0.8:
        index = random.randrange(len(value))
        return [*value[:index], _change(random, value[index]), *value[index + random.choice((0, 1)) :]]
    return random.choice(_VALUES)


def _random_document(random: random.Random, _: bytes) -> bytes:
    def make(depth: int) -> Any:
        if depth and random.random() < 0.6:
            if random.random() < 0.5:
                return [make(depth - 1) for _ in range(random.randrange(4))]
            names = ("files", "report", "revision", "variant", "verdict", "at", "models", "", "\ud800")
            return {random.choice(names): make(depth - 1) for _ in range(random.randrange(4))}
        return random.choice(_VALUES)

    return json.dumps(make(5)).encode()


def _garbage(random: random.Random, old: bytes) -> bytes:
    start = random.randrange(len(old) + 1)
    return old[:start] + random.randbytes(random.randrange(1, 60)) + old[start + random.randrange(8) :]


def _repeated_keys(_: random.Random, old: bytes) -> bytes:
    return old.replace(b"{", b'{"revision": "x", "revision": "y", ', 1) if b"{" in old else b'{"a": 1, "a": 2}'


_CONTENTS: Final[dict[str, Callable[[random.Random, bytes], bytes]]] = {
    "nothing": lambda _, __: b"",
    "100,000 lists": lambda _, __: b"[" * 100_000,
    "900 objects": lambda _, __: b'{"files":' * 900,
    "a list of lists": lambda _, __: b"[" + b"[]," * 200_000 + b"[]]",
    "many lines": lambda _, __: b"{}\n" * 300_000,
    "an infinite number": lambda _, __: b'{"requests": 1e999, "at": NaN, "files": -Infinity}',
    "5,000 digits": lambda _, __: b'{"size": ' + b"9" * 5000 + b"}",
    "bad UTF-8": lambda _, old: old[:20] + b"\xff\xfe\x80" + old[20:],
    "UTF-16": lambda _, old: old.decode(errors="replace").encode("utf-16"),
    "NULs": lambda _, __: b"\0" * 5000,
    "a key twice": _repeated_keys,
    "one value changed": _mutated,
    "another value changed": _mutated,
    "two values changed": lambda random, old: _mutated(random, _mutated(random, old)),
    "bytes changed": _garbage,
    "a random document": _random_document,
    "a list": lambda _, __: b'["a"]',
    "null": lambda _, __: b"null",
    "half of it": lambda _, old: old[: len(old) // 2],
}
