"""Names and digests from outside, parsed once at the boundary into types.

A *model name* is `org/name`, or `name` alone for the Hub's oldest repositories. Its *slug*, `org--name`, is the only
form that becomes a directory. A *revision* is a 40-hex commit; a branch or tag is a plain `str` and never names
anything on disk. A *repository path* is the relative POSIX path of a file in a revision.

The rules are the Hub's own (96 characters for each part, no `--`, no `..`), and tighter where a file system could be
fooled. Nothing here touches a disk.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NewType

from paddock.errors import UnsafeName

Revision = NewType("Revision", str)
"""A commit: 40 lower-case hexadecimal digits."""

Sha256 = NewType("Sha256", str)
"""A digest: 64 lower-case hexadecimal digits."""

SegmentDigest = NewType("SegmentDigest", str)
"""The digest of one segment of a file, `blake3:` and 64 lower-case hexadecimal digits; without `blake3:`, as the first
manifests have them, a sha256."""

_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_REVISION = re.compile(r"[0-9a-f]{40}")
_BEGINNING = re.compile(r"[0-9a-fA-F]{4,39}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SEGMENT = re.compile(r"(?:blake3:)?[0-9a-f]{64}")
_REF = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+-]{0,254}")
_RESERVED = frozenset({"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))})
_FORBIDDEN = frozenset('\\:*?"<>|')
_NAME_CURE = "use a name as the Hub writes it, `org/name`"
_PATH_MAX_BYTES = 1024
"""A path and the directory that it goes to must stay below the 4,096 bytes that Linux takes."""


@dataclass(frozen=True, slots=True, order=True)
class ModelName:
    """A repository on the Hub. `str()` gives `org/name`, `slug` the directory's name."""

    org: str | None
    name: str

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """Read `org/name` or `name`. Raises UnsafeName, which is a ValueError and quotes the name, for anything
        else."""
        printable = text if len(text) <= 120 else f"{text[:117]}..."
        parts = text.split("/")
        if len(parts) > 2:
            raise UnsafeName(f"the model name {printable!r} has more than one '/'", cure=_NAME_CURE)
        for part in parts:
            if len(part) > 96:
                raise UnsafeName(
                    f"the model name {printable!r} is over-long: a part has {len(part)} of at most 96 characters"
                )
            if not _PART.fullmatch(part) or ".." in part or "--" in part:
                raise UnsafeName(
                    f"the model name {printable!r} is not safe: a part has letters, digits, '_', '.' and '-', begins and"
                    " ends with a letter, digit or '_', and holds no '..' or '--'",
                    cure=_NAME_CURE,
                )
        if parts[-1].endswith(".git"):
            raise UnsafeName(
                f"the model name {printable!r} ends in '.git', as no name on the Hub does", cure=_NAME_CURE
            )
        return cls(parts[0] if len(parts) == 2 else None, parts[-1])

    @classmethod
    def from_slug(cls, slug: str) -> ModelName:
        """The inverse of `slug`. Raises UnsafeName."""
        return cls.parse(slug.replace("--", "/"))

    @property
    def slug(self) -> str:
        return f"{self.org}--{self.name}" if self.org else self.name

    def __str__(self) -> str:
        return f"{self.org}/{self.name}" if self.org else self.name


def parse_revision(text: str) -> Revision:
    """Read a commit. Raises UnsafeName for anything but 40 lower-case hexadecimal digits."""
    if not _REVISION.fullmatch(text):
        raise UnsafeName(f"{text[:80]!r} is not a commit of 40 hexadecimal digits")
    return Revision(text)


def parse_ref(text: str) -> str:
    """Read a branch, tag or commit that a user asks for: what git allows, less what a shell or an address could
    mistake."""
    if not _REF.fullmatch(text) or ".." in text or "//" in text or text.endswith(("/", ".", ".lock")):
        raise UnsafeName(
            f"the revision {text[:80]!r} is not a branch, tag or commit", cure="use `main`, a tag, or a commit"
        )
    return text


def is_revision(text: str) -> bool:
    return _REVISION.fullmatch(text) is not None


def find_by_prefix(text: str, known: Iterable[Revision]) -> Revision | None:
    """The one commit among `known` that begins with `text`, of at least four digits; None where none does, or where it
    is no beginning of a commit. Raises UnsafeName where several do."""
    if not _BEGINNING.fullmatch(text):
        return None
    begun = sorted({revision for revision in known if revision.startswith(text.lower())})
    if len(begun) > 1:
        shown_ones = ", ".join(revision[:12] for revision in begun)
        raise UnsafeName(f"{len(begun)} commits begin with {text}: {shown_ones}", cure="write more of its digits")
    return begun[0] if begun else None


def parse_sha256(text: str) -> Sha256:
    """Read a digest. Raises UnsafeName for anything but 64 lower-case hexadecimal digits."""
    if not _SHA256.fullmatch(text):
        raise UnsafeName(f"{text[:80]!r} is not a sha256 of 64 hexadecimal digits")
    return Sha256(text)


def parse_segment_digest(text: str) -> SegmentDigest:
    """Read the digest of a segment. Raises UnsafeName for anything else."""
    if not _SEGMENT.fullmatch(text):
        raise UnsafeName(f"{text[:80]!r} is not a segment's digest, 64 hexadecimal digits with or without `blake3:`")
    return SegmentDigest(text)


def parse_repository_path(text: str) -> str:
    """Check one file name from a repository, and return it unchanged.

    Relative POSIX of at most 1,024 bytes; each part of 1 to 255 bytes in NFC, without control or format characters,
    wildcards, colon or backslash, not a device name, not `.` or `..`, no dash, dot or space before it, no dot or space
    after it. Raises UnsafeName that quotes it.
    """
    problem = next(filter(None, map(_part_problem, text.split("/"))), None)
    if problem is None and len(text.encode()) > _PATH_MAX_BYTES:
        problem = f"it is longer than {_PATH_MAX_BYTES} bytes"
    if problem:
        raise UnsafeName(
            f"the file name {text[:200]!r} is not safe: {problem}", cure="the repository's owner must rename it"
        )
    return text


def printable(text: str) -> str:
    """A name from outside as a message may hold it: plain where it is short and printable, else quoted and cut."""
    return text if text.isprintable() and len(text) <= 200 else repr(text[:200])


def _part_problem(part: str) -> str | None:
    if not part:
        return "it is absolute, or has an empty part"
    if len(part.encode(errors="surrogatepass")) > 255:
        return "a part is longer than 255 bytes"
    if not unicodedata.is_normalized("NFC", part):
        return "it is not in Unicode's NFC form"
    if any(
        character in _FORBIDDEN or unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"}
        for character in part
    ):
        return "it holds a backslash, a colon, a wildcard, or a control or format character"
    if part[0] in "-. " or part[-1] in ". ":
        return "a part begins with a dash, dot or space, or ends with a dot or space"
    # Windows takes `COM¹` for `COM1`, and `nul .txt` for `nul`
    if unicodedata.normalize("NFKC", part).split(".", maxsplit=1)[0].strip().casefold() in _RESERVED:
        return "a part is a reserved device name"
    return None


def check_distinct(paths: Iterable[str]) -> None:
    """Raise UnsafeName when two paths would meet on some file system: equal after NFKC and case folding, or a file that
    is also a directory."""
    seen: dict[str, str] = {}
    for path in paths:
        folded = unicodedata.normalize("NFKC", path).casefold()
        if folded in seen:
            raise UnsafeName(f"the file names {seen[folded]!r} and {path!r} are the same on some file systems")
        seen[folded] = path
    for folded, path in seen.items():
        parts = folded.split("/")
        for depth in range(1, len(parts)):
            above = "/".join(parts[:depth])
            if above in seen:
                raise UnsafeName(f"the name {seen[above]!r} is a file and, for {path!r}, also a directory")
