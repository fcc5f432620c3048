"""Make boto3's S3 client, and the request parameters of each write: encryption and storage class.

The endpoint and the keys come from the AWS environment variables and files, which boto3 reads itself. Only boto3
retries a request; nothing above it does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from paddock.settings import Settings
from paddock.store.s3.answers import refuse_other_answers

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

Encryption = Literal["AES256", "aws:kms"]

_CONNECT_S = 3.0  # with three attempts, an unreachable S3 is reported within about ten seconds
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class S3Options:
    """Options of the S3 client.

    `connections` is the number of parts that are sent at once, `stall_s` the read timeout of a request in seconds.
    `path_style` None leaves the addressing style to boto3: the bucket is in the path for an IP address, else in the
    host name.
    """

    connections: int = 4
    stall_s: float = 30.0
    path_style: bool | None = None
    encryption: Encryption | None = None
    kms_key: str | None = None
    storage_class: str | None = None

    @staticmethod
    def of(settings: Settings) -> S3Options:
        return S3Options(
            stall_s=settings.stall_s,
            path_style=settings.s3_path_style,
            encryption=settings.s3_encryption,
            kms_key=settings.s3_kms_key,
            storage_class=settings.s3_storage_class,
        )

    @property
    def for_any_object(self) -> dict[str, Any]:
        """Request parameters of every write. A bucket's policy may refuse a write that does not ask for encryption."""
        parameters: dict[str, Any] = {}
        if self.encryption:
            parameters["ServerSideEncryption"] = self.encryption
        if self.kms_key:
            parameters["SSEKMSKeyId"] = self.kms_key
        return parameters

    @property
    def for_blobs(self) -> dict[str, Any]:
        """Request parameters of a blob's write. Manifests, refs and reports, which are small and read often, stay in
        the bucket's default storage class."""
        return self.for_any_object | ({"StorageClass": self.storage_class} if self.storage_class else {})


def connect(options: S3Options) -> S3Client:
    """Make a client. Opens no connection; raises ValueError for an AWS_ENDPOINT_URL that is no address."""
    from boto3.session import Session
    from botocore.config import Config

    styles: dict[bool | None, Literal["auto", "path", "virtual"]] = {None: "auto", True: "path", False: "virtual"}
    config = Config(
        connect_timeout=_CONNECT_S,
        read_timeout=options.stall_s,
        retries={"total_max_attempts": _ATTEMPTS, "mode": "standard"},
        max_pool_connections=max(10, options.connections),
        signature_version="s3v4",
        s3={"addressing_style": styles[options.path_style]},
        # Paddock sends a sha256 of its own with each part, and verifies what it fetches.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    client = Session().client("s3", config=config)
    client.meta.events.register("before-parse.s3", refuse_other_answers)
    return client
