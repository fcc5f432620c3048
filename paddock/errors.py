"""Every failure that Paddock raises on purpose.

The tree has two branches, because one question decides what a caller does next: is another try worth it?

    PaddockError
    ├── TransientError                    the same call may succeed later; Prefect retries it
    │   ├── HubUnavailable                no answer, a time-out, 5xx, or 429 from the Hub
    │   ├── TransferInterrupted           bytes stopped coming; what came is kept for resume
    │   ├── OrchestratorUnavailable       Prefect's server does not answer
    │   ├── ServerUnavailable             a model's server does not answer, or not as it should
    │   ├── StoreUnavailable              S3 does not answer, or the volume's file system fails
    │   └── BlobMissing                   a store lost a blob before it was published; the next run fetches it
    └── PermanentError                    the same call fails the same way; tried once
        ├── UsageError                    exit status 3: the caller must say it differently
        │   ├── UnsafeName                a name that could leave its directory (also a ValueError)
        │   ├── BadSetting                a setting that does not parse, or contradicts another (also a ValueError)
        │   └── NoSuchFile                a local file or directory that is not there (also a FileNotFoundError)
        ├── ImpossibleError               exit status 1: it could not be done here and now
        │   ├── ModelNotFound             the Hub has no such repository, or hides it
        │   ├── ModelGated                the Hub wants terms accepted, or a token
        │   ├── RevisionNotFound          no such branch, tag or commit
        │   ├── FileNotInRevision         the revision has no such file
        │   ├── HubRefused                any other refusal of the Hub, or a Hub that is switched off
        │   ├── TransferRefused           the address of a file's bytes answers, and says no
        │   ├── NotEnoughDisk             known before the first byte, or met on the way
        │   ├── NoPermission              a directory or bucket that may not be read or written (also a PermissionError)
        │   ├── StoreRefused              S3 answers, and says no
        │   ├── NotOnVolume               a model or revision that the volume does not hold
        │   ├── InUse                     promoted, served or pinned: it is not removed
        │   ├── SnapshotDiffers           a snapshot of that name has other files, and is never replaced
        │   ├── EngineTooOld              llama-cpp-python is missing or older than what Paddock needs
        │   ├── EngineCrashed             the engine's process died, or ran out of time
        │   └── EngineOutOfMemory         the engine could not allocate what it needs
        └── WantingError                  exit status 2: the model was judged, and found wanting
            ├── NoGguf                    no GGUF in the repository or directory (also a FileNotFoundError)
            ├── NotGguf                   a file that is not what its name says
            ├── MalformedGguf             a GGUF that breaks a rule of the format
            ├── MissingShard              a split model with a part missing (also a FileNotFoundError)
            ├── CorruptFile               bytes that do not have the digest they should have
            ├── ModelRejected             the audit's verdict is reject
            ├── IncompatibleModel         the installed engine does not know the architecture
            ├── ConflictingConfiguration  the model's own files, or the request and the model, disagree
            ├── DoesNotFit                the memory estimate is over what there is
            └── GateNotPassed             worse than what is promoted now

A message says what thing it was, what came and what was expected; `cure` says what to do next. `str(error)` is both, as
one sentence. All of them survive pickling, since Prefect carries them between processes.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar


class PaddockError(Exception):
    """The root. `code` is the kebab-case name used as `error` in JSON; `exit_status` is what the command line ends
    with."""

    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, *, cure: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.cure = cure

    @property
    def code(self) -> str:
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", type(self).__name__).lower()

    def __str__(self) -> str:
        return f"{self.message}: {self.cure}" if self.cure else self.message


class TransientError(PaddockError):
    """Worth another try. `retry_after_s` is what the other side asked for, or None."""

    def __init__(self, message: str, *, cure: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message, cure=cure)
        self.retry_after_s = retry_after_s


class HubUnavailable(TransientError):
    pass


class TransferInterrupted(TransientError):
    pass


class OrchestratorUnavailable(TransientError):
    pass


class ServerUnavailable(TransientError):
    pass


class StoreUnavailable(TransientError):
    pass


class BlobMissing(TransientError):
    pass


class PermanentError(PaddockError):
    pass


class UsageError(PermanentError):
    exit_status = 3


class UnsafeName(UsageError, ValueError):
    pass


class BadSetting(UsageError, ValueError):
    pass


class NoSuchFile(UsageError, FileNotFoundError):
    pass


class ImpossibleError(PermanentError):
    pass


class ModelNotFound(ImpossibleError):
    pass


class ModelGated(ImpossibleError):
    pass


class RevisionNotFound(ImpossibleError):
    pass


class FileNotInRevision(ImpossibleError):
    pass


class HubRefused(ImpossibleError):
    pass


class TransferRefused(ImpossibleError):
    pass


class NotEnoughDisk(ImpossibleError):
    pass


class NoPermission(ImpossibleError, PermissionError):
    pass


class StoreRefused(ImpossibleError):
    pass


class NotOnVolume(ImpossibleError):
    pass


class InUse(ImpossibleError):
    pass


class SnapshotDiffers(ImpossibleError):
    pass


class EngineTooOld(ImpossibleError):
    pass


class EngineCrashed(ImpossibleError):
    """`by_signal` says that its process was ended by a signal of its own making, such as SIGSEGV."""

    by_signal = False


class EngineOutOfMemory(ImpossibleError):
    pass


class WantingError(PermanentError):
    exit_status = 2


class NoGguf(WantingError, FileNotFoundError):
    pass


class _Breach(WantingError):
    """What a parser met: `rule` is the finding's stable name, `where` the byte offset (`byte 24`) or the metadata
    key."""

    def __init__(self, message: str, *, cure: str = "", rule: str = "", where: str = "") -> None:
        super().__init__(message, cure=cure)
        self.rule = rule
        self.where = where


class NotGguf(_Breach):
    pass


class MalformedGguf(_Breach):
    pass


class MissingShard(WantingError, FileNotFoundError):
    pass


class CorruptFile(WantingError):
    pass


class ModelRejected(WantingError):
    """`findings` are those of the audit that rejected it, where there was one."""

    findings: tuple[Any, ...] = ()


class IncompatibleModel(WantingError):
    pass


class ConflictingConfiguration(WantingError):
    pass


class DoesNotFit(WantingError):
    pass


class GateNotPassed(WantingError):
    pass
