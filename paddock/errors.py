"""The exceptions that Paddock raises.

The tree has two branches, since they decide what a caller does next: retry or not.

    PaddockError
    ├── TransientError                    the same call may succeed later; Prefect retries it
    │   ├── HubUnavailable                the Hub cannot be reached, times out, or answers 5xx or 429
    │   ├── TransferInterrupted           a download stopped; the received bytes are kept for resume
    │   ├── OrchestratorUnavailable       Prefect's server does not answer
    │   ├── ServerUnavailable             a model's server does not answer, or its answer is invalid
    │   ├── StoreUnavailable              S3 does not answer, or the volume's file system fails
    │   └── BlobMissing                   a store lost a blob before it was published; the next run fetches it
    └── PermanentError                    the same call fails the same way; never retried
        ├── UsageError                    exit status 3: the request has to be changed
        │   ├── UnsafeName                a name that could leave its directory (also a ValueError)
        │   ├── BadSetting                a setting that does not parse, or contradicts another (also a ValueError)
        │   ├── BadCatalog                the catalog of wanted models is not valid; has every problem with its line
        │   └── NoSuchFile                a local file or directory does not exist (also a FileNotFoundError)
        ├── OperationError                exit status 1: it cannot be done here and now
        │   ├── ModelNotFound             the Hub has no such repository, or hides it
        │   ├── ModelGated                the Hub requires accepted terms, or a token
        │   ├── RevisionNotFound          no such branch, tag or commit
        │   ├── FileNotInRevision         the revision has no such file
        │   ├── HubRefused                the Hub refused for another reason, or HF_HUB_OFFLINE is set
        │   ├── ProxyRefused              a proxy requires other credentials, or refuses to connect
        │   ├── TransferRefused           the source of a file's bytes refuses to send them
        │   ├── NotEnoughDisk             found before the first byte, or while writing
        │   ├── NoPermission              a directory or bucket may not be read or written (also a PermissionError)
        │   ├── StoreRefused              S3 refuses the request
        │   ├── NotOnVolume               the volume does not hold this model or revision
        │   ├── NotMeasured               what was asked for has to be measured before
        │   ├── InUse                     in use or pinned, so not removed
        │   ├── PromotionConflict         another snapshot was promoted since the decision was made
        │   ├── MaintenanceFailed         a part of a maintenance failed, or damage stays
        │   ├── RefreshFailed             an entry failed that the catalog requires
        │   ├── SnapshotDiffers           a snapshot of that name has other files, and is immutable
        │   ├── EngineTooOld              llama-cpp-python is missing or older than what Paddock needs
        │   ├── EngineCrashed             the engine's process died, or timed out
        │   └── EngineOutOfMemory         the engine could not allocate what it needs
        └── ModelError                    exit status 2: the model failed a check
            ├── NoGguf                    no GGUF in the repository or directory (also a FileNotFoundError)
            ├── NotGguf                   a file is not a GGUF, whatever its name
            ├── MalformedGguf             a GGUF that breaks a rule of the format
            ├── MissingShard              a split model with a part missing (also a FileNotFoundError)
            ├── CorruptFile               bytes whose digest differs from the expected one
            ├── ModelRejected             the audit's verdict is reject
            ├── IncompatibleModel         the installed engine does not know the architecture
            ├── ConflictingConfiguration  the model's own files, or the request and the model, disagree
            ├── DoesNotFit                the memory estimate exceeds the available memory
            └── GateNotPassed             worse than the promoted snapshot

A message names the thing, what was found and what was expected; `cure` says what to do next. `str(error)` is both, as
one sentence. All of them can be pickled, since Prefect passes them between processes.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, Self

from paddock.plain_text import lines, one_line


class PaddockError(Exception):
    """Base class. `code` is the kebab-case class name, which JSON output has as `error`; `exit_status` is that of the
    command line. Message and cure may quote text of any origin: they are plain (`paddock.plain_text`). The message is
    on one line, and a cure may have several, such as lines to write into a file."""

    exit_status: ClassVar[int] = 1
    is_counted = False
    """Whether it is in the metrics already (`paddock.lifecycle.counts`): it may pass through several steps."""

    def __init__(self, message: str, *, cure: str = "") -> None:
        self.message = one_line(message)
        self.cure = lines(cure)
        super().__init__(self.message)

    @property
    def code(self) -> str:
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", type(self).__name__).lower()

    def __str__(self) -> str:
        return f"{self.message}: {self.cure}" if self.cure else self.message


class TransientError(PaddockError):
    """Error that may not occur again if the call is retried. `retry_after_s` is the requested wait, or None."""

    def __init__(self, message: str, *, cure: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message, cure=cure)
        self.retry_after_s = retry_after_s


class HubUnavailable(TransientError):
    pass


class TransferInterrupted(TransientError):
    """`wrong_answers`: the server answered each request, and never with the bytes that were requested.
    `was_cancelled`: its caller ended it, which is no failure."""

    wrong_answers = False
    was_cancelled = False

    @classmethod
    def cancelled(cls, message: str, *, cure: str = "") -> Self:
        """The error of a transfer that its caller ended."""
        error = cls(message, cure=cure)
        error.was_cancelled = True
        return error


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


class BadCatalog(UsageError):
    """`problems`: all that is wrong with the catalog, each with its line."""

    problems: tuple[Any, ...] = ()


class NoSuchFile(UsageError, FileNotFoundError):
    pass


class OperationError(PermanentError):
    pass


class ModelNotFound(OperationError):
    pass


class ModelGated(OperationError):
    pass


class RevisionNotFound(OperationError):
    pass


class FileNotInRevision(OperationError):
    pass


class HubRefused(OperationError):
    pass


class ProxyRefused(OperationError):
    pass


class TransferRefused(OperationError):
    pass


class NotEnoughDisk(OperationError):
    pass


class NoPermission(OperationError, PermissionError):
    pass


class StoreRefused(OperationError):
    pass


class NotOnVolume(OperationError):
    pass


class NotMeasured(OperationError):
    pass


class InUse(OperationError):
    pass


class PromotionConflict(OperationError):
    pass


class MaintenanceFailed(OperationError):
    pass


class RefreshFailed(OperationError):
    """`table` has a row for each entry that failed, as Markdown; `refreshed` is the result of the refresh."""

    table: str = ""
    refreshed: Any = None

    def __str__(self) -> str:
        return f"{super().__str__()}\n\n{self.table}" if self.table else super().__str__()


class SnapshotDiffers(OperationError):
    pass


class EngineTooOld(OperationError):
    pass


class EngineCrashed(OperationError):
    """`by_signal`: the process crashed by a signal, such as SIGSEGV."""

    by_signal = False


class EngineOutOfMemory(OperationError):
    pass


class ModelError(PermanentError):
    exit_status = 2


class NoGguf(ModelError, FileNotFoundError):
    pass


class _GgufError(ModelError):
    """A parser error: `rule` is the stable name of the finding, `where` the byte offset (`byte 24`) or the metadata
    key."""

    def __init__(self, message: str, *, cure: str = "", rule: str = "", where: str = "") -> None:
        super().__init__(message, cure=cure)
        self.rule = rule
        self.where = where


class NotGguf(_GgufError):
    pass


class MalformedGguf(_GgufError):
    pass


class MissingShard(ModelError, FileNotFoundError):
    pass


class CorruptFile(ModelError):
    pass


class ModelRejected(ModelError):
    """`findings` of the audit that rejected the model, if there was one."""

    findings: tuple[Any, ...] = ()


class IncompatibleModel(ModelError):
    pass


class ConflictingConfiguration(ModelError):
    pass


class DoesNotFit(ModelError):
    pass


class GateNotPassed(ModelError):
    pass
