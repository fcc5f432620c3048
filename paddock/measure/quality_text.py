"""Texts that the quality of a model is measured on: the project's own, of five kinds, or a file of the user's.

The project's own texts were written for this purpose. No model was trained on them before their publication, and they
hold what a served model writes: prose, dialogue, code, a second language, tool calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from importlib import resources
from pathlib import Path

from paddock.errors import BadSetting, NoPermission, NoSuchFile
from paddock.untrusted.content import UnusableContent
from paddock.untrusted.files import read_head

KINDS = ("prose", "dialogue", "code", "german", "tool-calls")
MAX_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True)
class QualityText:
    """A text by its name: one of KINDS, or that of a file."""

    name: str
    content: str

    @property
    def sha256(self) -> str:
        return sha256(self.content.encode()).hexdigest()


def own_texts() -> tuple[QualityText, ...]:
    folder = resources.files("paddock.measure") / "texts"
    return tuple(QualityText(kind, (folder / f"{kind}.txt").read_text(encoding="utf-8")) for kind in KINDS)


def read_text(path: Path) -> QualityText:
    """Read a UTF-8 text file of at most 4 MiB; of a longer one, its beginning.

    Raises NoSuchFile, NoPermission, and BadSetting for what is no text.
    """
    try:
        data = read_head(path, max_bytes=MAX_BYTES, follow=True)
    except UnusableContent as error:
        reason = error.reason.removeprefix("it ")
        raise BadSetting(f"the text {path} {reason}", cure="name a text file") from None
    except (FileNotFoundError, NotADirectoryError):
        raise NoSuchFile(f"there is no text {path}", cure="name a text file") from None
    except PermissionError:
        raise NoPermission(f"the text {path} may not be read", cure="give this user access") from None
    except OSError as error:
        raise BadSetting(f"the text {path} cannot be read: {error.strerror}", cure="name a text file") from None
    try:
        content = data.decode()
    except UnicodeDecodeError as error:
        if len(data) < MAX_BYTES or error.start < len(data) - 3:  # not a character that the limit cut
            raise BadSetting(
                f"the text {path} is not UTF-8: byte {error.start} is {data[error.start]:#04x}",
                cure="convert it to UTF-8, or name another text",
            ) from None
        content = data[: error.start].decode()
    if not content.strip():
        raise BadSetting(f"the text {path} is empty", cure="name a text of some thousand words")
    return QualityText(path.name, content)
