"""How S3 is spoken with: boto3's client, and what is said with each object that is written.

The address and the keys come from the AWS environment variables and files, which boto3 reads itself. boto3 repeats a
request; nothing above it does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from paddock.settings import Settings

Encryption = Literal["AES256", "aws:kms"]

_CONNECT_S = 3.0  # three attempts: an S3 that is not there is told within about ten seconds
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class S3Options:
    """`connections` is how many parts are sent at once, `stall_s` how long a request may wait for an answer.

    `path_style` None leaves it to boto3: buckets in the path for an address that is a number, else in the host name.
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
        """What every write says: a bucket's policy may refuse one that does not ask for encryption."""
        said: dict[str, Any] = {}
        if self.encryption:
            said["ServerSideEncryption"] = self.encryption
        if self.kms_key:
            said["SSEKMSKeyId"] = self.kms_key
        return said

    @property
    def for_blobs(self) -> dict[str, Any]:
        """Manifests, refs and reports stay in the bucket's usual class: they are small, and read often."""
        return self.for_any_object | ({"StorageClass": self.storage_class} if self.storage_class else {})


def connect(options: S3Options) -> S3Client:
    """Make a client. Dials nothing; raises ValueError for an AWS_ENDPOINT_URL that is no address."""
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
        # We send a sha256 of our own with each blob, and check what we fetch.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return Session().client("s3", config=config)
