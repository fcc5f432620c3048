"""Build the states of a directory tree that a power loss may leave, from the log of `fault_shim.c`.

What is on the disk for certain: the data of a file up to its last fsync, and the entries of a directory up to the last
fsync of that directory, whose own name is on the disk then, too. A rename between two directories is one transaction.
Of everything later a journaling file system may have written any part:

- entries: all up to some moment (one journal, in order), all up to a moment of its own for each directory, or any
  subset, except that a change of a name is lost if an earlier change of that name is lost;
- data: of each file none, all, the first few writes, any of the blocks with the others as before, or as zeros where the
  file grew; its size and its mode as before, or as they became.
"""

from __future__ import annotations

import os
import random
import stat
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_HEADER = struct.Struct("iiQQQQII")
_CREATE, _LINK, _UNLINK, _RENAME, _EXCHANGE, _WRITE, _TRUNCATE, _CHMOD, _SYNC = range(9)
_BLOCK_BYTES = 4096
_Key = tuple[int, str]
"""A name in a directory: (the directory's node, the name)."""


@dataclass
class _Node:
    """A file, directory or link, as it was before the first change. `text`: a link's target."""

    mode: int
    data: bytes = b""
    text: str = ""


@dataclass(frozen=True)
class _Entries:
    """A change of names, at once: each becomes that of a node, or free."""

    changes: tuple[tuple[_Key, int | None], ...]


@dataclass(frozen=True)
class _Write:
    node: int
    offset: int
    data: bytes


@dataclass(frozen=True)
class _Truncate:
    node: int
    size: int


@dataclass(frozen=True)
class _Chmod:
    node: int
    mode: int


@dataclass(frozen=True)
class _Sync:
    node: int


_Event = _Entries | _Write | _Truncate | _Chmod | _Sync
_OF_FILES: dict[int, Callable[[int, int, int, bytes], _Event]] = {
    _WRITE: lambda node, offset, _, data: _Write(node, offset, data),
    _TRUNCATE: lambda node, size, _, __: _Truncate(node, size),
    _CHMOD: lambda node, _, mode, __: _Chmod(node, mode),
    _SYNC: lambda node, _, __, ___: _Sync(node),
}


@dataclass
class Changes:
    """The tree before the first change, and all changes in order. Create it with `of` before they are made, and call
    `read` afterwards."""

    nodes: list[_Node] = field(default_factory=list)
    names: dict[_Key, int] = field(default_factory=dict)
    events: list[_Event] = field(default_factory=list)
    _by_inode: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, root: Path) -> Changes:
        changes = cls()
        changes._add_tree(root)
        return changes

    def _add_tree(self, path: Path) -> int:
        status = path.lstat()
        if status.st_ino in self._by_inode:  # a hard link
            return self._by_inode[status.st_ino]
        node = self._add(status.st_ino, _Node(status.st_mode))
        if stat.S_ISDIR(status.st_mode):
            for child in sorted(path.iterdir()):
                self.names[node, child.name] = self._add_tree(child)
        elif stat.S_ISLNK(status.st_mode):
            self.nodes[node].text = str(path.readlink())
        else:
            self.nodes[node].data = path.read_bytes()
        return node

    def _add(self, inode: int, node: _Node) -> int:
        self.nodes.append(node)
        self._by_inode[inode] = len(self.nodes) - 1
        return len(self.nodes) - 1

    def read(self, log: bytes) -> None:
        """Add the changes of a log."""
        names, position = dict(self.names), 0
        while position < len(log):
            record, mode, inode, parent, other, offset, first, second = _HEADER.unpack_from(log, position)
            position += _HEADER.size
            text, data = log[position : position + first], log[position + first : position + first + second]
            position += first + second
            if record == _CREATE:
                self._add(inode, _Node(mode, text=os.fsdecode(data)))
            if record in _OF_FILES:
                self.events.append(_OF_FILES[record](self._by_inode[inode], offset, mode, data))
                continue
            event = _Entries(self._named(names, record, parent, other, os.fsdecode(text), os.fsdecode(data), inode))
            for key, target in event.changes:
                names.pop(key, None)
                if target is not None:
                    names[key] = target
            self.events.append(event)

    def _named(
        self, names: dict[_Key, int], record: int, parent: int, other: int, name: str, second: str, inode: int
    ) -> tuple[tuple[_Key, int | None], ...]:
        key = (self._by_inode[parent], name)
        if record == _UNLINK:
            return ((key, None),)
        if record in {_CREATE, _LINK}:
            return ((key, self._by_inode[inode]),)
        target = (self._by_inode[other], second)
        if key == target:
            return ()
        return (key, names[target] if record == _EXCHANGE else None), (target, names[key])

    def everything(self) -> State:
        """The tree after all changes."""
        return self._state(set(range(len(self.events))), random.Random(0), len(self.events), whole=True)

    def after_power_loss(self, rng: random.Random, *, at_end: bool = False) -> State:
        """The tree after a power loss at a random moment, or with `at_end` after the last change."""
        end = len(self.events) if at_end else rng.randint(0, len(self.events))
        certain = self._certain(end)
        kept = set(certain)
        uncertain = [index for index in range(end) if isinstance(self.events[index], _Entries) and index not in certain]
        policy = rng.choice((self._one_journal, self._each_directory, self._any))
        wanted = policy(uncertain, end, rng)
        lost: set[_Key] = set()
        for index in uncertain:
            keys = _keys(self.events[index])
            if index in wanted and not keys & lost:
                kept.add(index)
            else:
                lost |= keys
        return self._state(kept, rng, end)

    def _certain(self, end: int) -> set[int]:
        """The changes of entries before `end` that an fsync made certain."""
        certain: set[int] = set()
        in_directory: dict[int, list[int]] = {}
        by_key: dict[_Key, list[int]] = {}
        placed: dict[int, int] = {}  # the last change that gave each node a name
        for index, event in enumerate(self.events[:end]):
            if isinstance(event, _Entries):
                for key, node in event.changes:
                    in_directory.setdefault(key[0], []).append(index)
                    by_key.setdefault(key, []).append(index)
                    if node is not None:
                        placed[node] = index
            elif isinstance(event, _Sync) and stat.S_ISDIR(self.nodes[event.node].mode):
                new = [*in_directory.get(event.node, ()), *self._ancestors(event.node, placed)]
                while new:  # an earlier change of the same name comes first
                    change = new.pop()
                    if change not in certain:
                        certain.add(change)
                        new += [
                            earlier for key in _keys(self.events[change]) for earlier in by_key[key] if earlier < change
                        ]
        return certain

    def _ancestors(self, node: int, placed: dict[int, int]) -> Iterator[int]:
        """The changes that gave a directory and those above it their names."""
        while node in placed:
            yield placed[node]
            event = self.events[placed[node]]
            assert isinstance(event, _Entries)
            node = next(key[0] for key, named in event.changes if named == node)

    def _one_journal(self, uncertain: Sequence[int], end: int, rng: random.Random) -> set[int]:
        synced = max((index for index in range(end) if isinstance(self.events[index], _Sync)), default=0)
        until = rng.randint(synced, end)
        return {index for index in uncertain if index < until}

    def _each_directory(self, uncertain: Sequence[int], end: int, rng: random.Random) -> set[int]:
        until: dict[int, int] = {}
        for index in uncertain:
            for directory, _ in _keys(self.events[index]):
                until.setdefault(directory, rng.randint(0, end))
        return {
            index for index in uncertain if all(index < until[directory] for directory, _ in _keys(self.events[index]))
        }

    def _any(self, uncertain: Sequence[int], _end: int, rng: random.Random) -> set[int]:
        return {index for index in uncertain if rng.random() < 0.5}

    def _state(self, kept: set[int], rng: random.Random, end: int, *, whole: bool = False) -> State:
        names = dict(self.names)
        changed: dict[int, list[_Event]] = {}
        synced: dict[int, int] = {}
        for index, event in enumerate(self.events[:end]):
            if isinstance(event, _Entries):
                for key, node in event.changes if index in kept else ():
                    names.pop(key, None)
                    if node is not None:
                        names[key] = node
            elif isinstance(event, _Sync):
                synced[event.node] = len(changed.get(event.node, ()))
            else:
                changed.setdefault(event.node, []).append(event)
        nodes = [
            _rewritten(
                node, changed.get(number, ()), len(changed.get(number, ())) if whole else synced.get(number, 0), rng
            )
            for number, node in enumerate(self.nodes)
        ]
        return State(nodes, names)


def _keys(event: _Event) -> set[_Key]:
    assert isinstance(event, _Entries)
    return {key for key, _ in event.changes}


def _rewritten(node: _Node, events: Sequence[_Event], certain: int, rng: random.Random) -> _Node:
    """A node after its changes, of which the first `certain` are on the disk."""
    data, mode = bytearray(node.data), node.mode
    for event in events[:certain]:
        mode = _apply(event, data, mode)
    uncertain = events[certain:]
    policy = rng.choice(("none", "all", "first", "blocks", "zeros")) if uncertain else "none"
    if policy in {"all", "first"}:
        for event in uncertain[: rng.randint(0, len(uncertain)) if policy == "first" else None]:
            mode = _apply(event, data, mode)
    elif policy != "none":
        final = bytearray(data)
        for event in uncertain:
            mode = _apply(event, final, mode)
        old, share = bytes(data).ljust(len(final), b"\0")[: len(final)], 0.5 if policy == "blocks" else 0
        data = bytearray(old)
        for start in range(0, len(final), _BLOCK_BYTES):
            if rng.random() < share:
                data[start : start + _BLOCK_BYTES] = final[start : start + _BLOCK_BYTES]
    return _Node(mode, bytes(data), node.text)


def _apply(event: _Event, data: bytearray, mode: int) -> int:
    """Apply a change to `data`. Returns the mode after it."""
    if isinstance(event, _Write):
        data.extend(bytes(max(0, event.offset - len(data))))
        data[event.offset : event.offset + len(event.data)] = event.data
    elif isinstance(event, _Truncate):
        data.extend(bytes(max(0, event.size - len(data))))
        del data[event.size :]
    elif isinstance(event, _Chmod):
        return stat.S_IFMT(mode) | event.mode
    return mode


@dataclass(frozen=True)
class State:
    """A tree. The first node is its root."""

    nodes: Sequence[_Node]
    names: dict[_Key, int]

    def content(self, directory: int = 0) -> dict[str, tuple[object, ...]]:
        """The tree below a directory by name: mode, data, a link's target, and children."""
        return {
            name: (self.nodes[node].mode, self.nodes[node].data, self.nodes[node].text, self.content(node))
            for (parent, name), node in self.names.items()
            if parent == directory
        }

    def write(self, root: Path) -> None:
        """Write the tree below an empty directory."""
        children: dict[int, list[tuple[str, int]]] = {}
        for (directory, name), node in self.names.items():
            children.setdefault(directory, []).append((name, node))
        written: dict[int, Path] = {}

        def write(directory: int, path: Path) -> None:
            for name, number in children.get(directory, ()):
                node, target = self.nodes[number], path / name
                if stat.S_ISDIR(node.mode):
                    target.mkdir()
                    write(number, target)
                elif stat.S_ISLNK(node.mode):
                    target.symlink_to(node.text)
                elif number in written:
                    os.link(written[number], target)
                else:
                    target.write_bytes(node.data)
                    target.chmod(stat.S_IMODE(node.mode))
                    written[number] = target

        write(0, root)
