"""Parse and validate untrusted names and digests: model names, revisions, digests, repository paths.

A *model name* is `org/name`, or `name` alone for the Hub's oldest repositories. Its *slug*, `org--name`, is the only
form that is used as a directory name. A *revision* is a commit of 40 hex digits; branches and tags are plain `str` and
are never used as file names. A *repository path* is the relative POSIX path of a file in a revision.

The rules are those of the Hub (at most 96 characters in each part, no `--`, no `..`), and stricter where a name could
be dangerous in a file system. This module does not access files.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NewType

from paddock.errors import UnsafeName
from paddock.plain_text import is_plain, one_line

Revision = NewType("Revision", str)
"""A commit: 40 lower-case hexadecimal digits."""

Sha256 = NewType("Sha256", str)
"""A digest: 64 lower-case hexadecimal digits."""

SegmentDigest = NewType("SegmentDigest", str)
"""The digest of one segment of a file: `blake3:` and 64 lower-case hexadecimal digits. Without the prefix, as in early
manifests, it is a sha256."""

_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_REVISION = re.compile(r"[0-9a-f]{40}")
_REVISION_PREFIX = r"[0-9a-fA-F]{4,40}"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SEGMENT = re.compile(r"(?:blake3:)?[0-9a-f]{64}")
_REF = r"[A-Za-z0-9_][A-Za-z0-9._/+-]{0,254}"
_RESERVED = frozenset({"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))})
_FORBIDDEN = frozenset('\\:*?"<>|')
_NAME_CURE = "use the model's name on the Hub, `org/name`"
_PATH_MAX_BYTES = 1024
"""A path together with its directory must stay below Linux's limit of 4,096 bytes."""


@dataclass(frozen=True, slots=True, order=True)
class ModelName:
    """A repository on the Hub. `str()` returns `org/name`."""

    org: str | None
    name: str

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """Parse `org/name` or `name`. Raises UnsafeName (a ValueError) with the name quoted for anything else."""
        quoted = text if len(text) <= 120 else f"{text[:117]}..."
        parts = text.split("/")
        if len(parts) > 2:
            raise UnsafeName(f"the model name {quoted!r} has more than one '/'", cure=_NAME_CURE)
        for part in parts:
            if len(part) > 96:
                raise UnsafeName(
                    f"the model name {quoted!r} is too long: a part has {len(part)} characters, and 96 are allowed"
                )
            if not _PART.fullmatch(part) or ".." in part or "--" in part:
                raise UnsafeName(
                    f"the model name {quoted!r} is not safe: a part must consist of letters, digits, '_', '.' and '-',"
                    " begin and end with a letter, digit or '_', and not contain '..' or '--'",
                    cure=_NAME_CURE,
                )
        if parts[-1].endswith(".git"):
            raise UnsafeName(f"the model name {quoted!r} ends in '.git', which the Hub does not allow", cure=_NAME_CURE)
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
    """Parse a commit. Raises UnsafeName for anything but 40 lower-case hexadecimal digits."""
    if not _REVISION.fullmatch(text):
        raise UnsafeName(f"{text[:80]!r} is not a commit of 40 hexadecimal digits")
    return Revision(text)


def parse_ref(text: str) -> str:
    """Parse a branch, tag or commit from a user. Raises UnsafeName.

    This allows less than git: characters with a meaning in shells or URLs are refused.
    """
    if not re.fullmatch(_REF, text) or ".." in text or "//" in text or text.endswith(("/", ".", ".lock")):
        raise UnsafeName(
            f"the revision {text[:80]!r} is not a branch, tag or commit", cure="use `main`, a tag, or a commit"
        )
    return text


def is_revision(text: str) -> bool:
    return _REVISION.fullmatch(text) is not None


def is_commit_prefix(text: str) -> bool:
    """Whether a text can be a commit, or the beginning of one: 4 to 40 hexadecimal digits, in either case."""
    return re.fullmatch(_REVISION_PREFIX, text) is not None


def find_by_prefix(text: str, revisions: Iterable[Revision]) -> Revision | None:
    """Find the commit among `revisions` that begins with `text`, a prefix of 4 or more digits. A whole commit need not
    be among them.

    None if there is no match, or `text` is no such prefix. Raises UnsafeName if several commits match.
    """
    if not is_commit_prefix(text):
        return None
    if is_revision(text.lower()):
        return Revision(text.lower())
    matches = sorted({revision for revision in revisions if revision.startswith(text.lower())})
    if len(matches) > 1:
        length = next(n for n in range(12, 41) if len({revision[:n] for revision in matches}) == len(matches))
        listed = ", ".join(revision[:length] for revision in matches)
        raise UnsafeName(f"{len(matches)} commits begin with {text}: {listed}", cure="use a longer prefix")
    return matches[0] if matches else None


def parse_sha256(text: str) -> Sha256:
    """Parse a digest. Raises UnsafeName for anything but 64 lower-case hexadecimal digits."""
    if not _SHA256.fullmatch(text):
        raise UnsafeName(f"{text[:80]!r} is not a sha256 of 64 hexadecimal digits")
    return Sha256(text)


def parse_segment_digest(text: str) -> SegmentDigest:
    """Parse the digest of a segment. Raises UnsafeName for anything else."""
    if not _SEGMENT.fullmatch(text):
        raise UnsafeName(
            f"{text[:80]!r} is not the digest of a segment, 64 hexadecimal digits with or without the prefix `blake3:`"
        )
    return SegmentDigest(text)


def parse_repository_path(text: str) -> str:
    """Validate the path of a file in a repository, and return it unchanged.

    A valid path is a relative POSIX path of at most 1,024 bytes. Each part has 1 to 255 bytes and is in Unicode's NFC
    form; has no control or format characters, wildcards, colons or backslashes; is not a device name, `.` or `..`; does
    not begin with a dash, dot or space; and does not end with a dot or space. Raises UnsafeName, which quotes the path.
    """
    problem = path_problem(text)
    if problem:
        raise UnsafeName(
            f"the file name {text[:200]!r} is not safe: {problem}", cure="the repository's owner must rename it"
        )
    return text


def path_problem(text: str) -> str | None:
    """The reason why `parse_repository_path` refuses a path, or None."""
    problem = next(filter(None, map(_part_problem, text.split("/"))), None)
    if problem is None and len(text.encode()) > _PATH_MAX_BYTES:
        problem = f"it is longer than {_PATH_MAX_BYTES} bytes"
    return problem


def fold_path(text: str) -> str:
    """The path as a file system may compare it: after NFKC normalization and case folding."""
    return unicodedata.normalize("NFKC", text).casefold()


def printable(text: str) -> str:
    """Make an untrusted name safe for messages: unchanged if it is short and printable, else quoted and shortened."""
    return text if is_plain(text) and len(text) <= 200 else one_line(repr(text[:200]))


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
        return "it contains a backslash, a colon, a wildcard, or a control or format character"
    if part[0] in "-. " or part[-1] in ". ":
        return "a part begins with a dash, dot or space, or ends with a dot or space"
    # Windows treats `COM¹` as `COM1`, and `nul .txt` as `nul`
    if unicodedata.normalize("NFKC", part).split(".", maxsplit=1)[0].strip().casefold() in _RESERVED:
        return "a part is a reserved device name"
    return None


def check_distinct(paths: Iterable[str]) -> None:
    """Raise UnsafeName if two paths collide on some file system.

    They collide if they are equal after NFKC normalization and case folding, or if one is a directory of the other.
    """
    seen: dict[str, str] = {}
    for path in paths:
        folded = fold_path(path)
        if folded in seen:
            raise UnsafeName(f"the file names {seen[folded]!r} and {path!r} are the same on some file systems")
        seen[folded] = path
    for folded, path in seen.items():
        parts = folded.split("/")
        for depth in range(1, len(parts)):
            parent = "/".join(parts[:depth])
            if parent in seen:
                raise UnsafeName(f"the name {seen[parent]!r} is a file and, for {path!r}, also a directory")
