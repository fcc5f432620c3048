"""Map the errors of botocore to those of Paddock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from botocore import exceptions as aws
from botocore.parsers import ResponseParserError

from paddock.errors import PaddockError, StoreRefused, StoreUnavailable
from paddock.network import HttpProxy
from paddock.store.s3.answers import NotS3Answer

_KEYS_CURE = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and AWS_ENDPOINT_URL for a server that is not Amazon's"
_ADDRESS_CURE = "set AWS_ENDPOINT_URL to the address of the S3 API, not of a web page or console; check PADDOCK_S3_URI"
_FULL_CURE = "free space in the bucket, or raise its quota"

_NO_ANSWER = (
    aws.HTTPClientError,
    aws.ConnectionError,
    aws.IncompleteReadError,
    aws.ChecksumError,
    aws.FlexibleChecksumError,
    aws.MetadataRetrievalError,
)
_NO_KEYS = (
    aws.NoCredentialsError,
    aws.PartialCredentialsError,
    aws.CredentialRetrievalError,
    aws.NoAuthTokenError,
    aws.TokenRetrievalError,
    aws.SSOError,
    aws.LoginError,
    aws.ProfileNotFound,
)
_TRANSIENT_CODES = frozenset(
    {"SlowDown", "RequestTimeout", "Throttling", "ThrottlingException", "TooManyRequests", "InternalError"}
    | {"ServiceUnavailable", "OperationAborted", "BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch"}
)
_KEY_CODES = frozenset({"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"})
# MinIO and Ceph return these codes, SeaweedFS only for a bucket with a quota; Amazon's S3 is never full.
_FULL_CODES = frozenset({"QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientStorage"})
_SIZE_CODES = frozenset({"EntityTooLarge", "EntityTooSmall"})
_OTHER_ABSENCES = frozenset({"NoSuchBucket", "NoSuchUpload"})
_LOST_RACE = frozenset({"PreconditionFailed", "ConditionalRequestConflict"})
_INSUFFICIENT_STORAGE = 507
_PROXY_AUTHENTICATION_REQUIRED = 407


def store_error(error: Exception, label: str, proxy: HttpProxy | None = None) -> PaddockError:
    """The error of Paddock for an error of botocore, whose requests went through `proxy`. The text of botocore is left
    out, since it may contain a presigned address."""
    if proxy is not None and (failure := _proxy_error(error, label, proxy)):
        return failure
    kind = type(error).__name__
    if isinstance(error, aws.ClientError):
        code = error_code(error)
        status = error_status(error)
        message = f"{label} answers {status or 'an error'} ({code})"
        if code in _FULL_CODES or status == _INSUFFICIENT_STORAGE:
            return StoreRefused(f"{message}: there is no space left", cure=_FULL_CURE)
        if code in _TRANSIENT_CODES or status in {408, 429} or (status >= 500 and status != 501):
            return StoreUnavailable(message, cure="try again later")
        if code == "NoSuchBucket":
            return StoreRefused(f"{message}: the bucket does not exist", cure="make it, or correct PADDOCK_S3_URI")
        if code in _KEY_CODES or status in {401, 403}:
            return StoreRefused(f"{message}: the keys are wrong, or lack the permission", cure=_KEYS_CURE)
        if code == "RequestTimeTooSkewed":
            return StoreRefused(f"{message}: this machine's clock is wrong", cure="correct the clock")
        return StoreRefused(message, cure="check PADDOCK_S3_URI, AWS_ENDPOINT_URL and AWS_DEFAULT_REGION")
    if isinstance(error, NotS3Answer):
        return StoreRefused(
            f"{label}: what answers is no S3 server, since its answer is {error.what}", cure=_ADDRESS_CURE
        )
    if isinstance(error, (ResponseParserError, ValueError)):
        return StoreRefused(
            f"{label}: what answers is no S3 server, since its answer cannot be parsed", cure=_ADDRESS_CURE
        )
    if isinstance(error, aws.SSLError) and "certificate" in str(error).lower():
        return StoreRefused(f"{label}: the server's certificate is not accepted", cure="set AWS_CA_BUNDLE")
    if isinstance(error, _NO_ANSWER):
        return StoreUnavailable(f"{label} does not answer ({kind})", cure="check AWS_ENDPOINT_URL and the network")
    if isinstance(error, _NO_KEYS):
        return StoreRefused(f"{label}: there are no usable keys ({kind})", cure=_KEYS_CURE)
    return StoreRefused(f"{label} could not be used ({kind})", cure="check the AWS_… settings")


def _proxy_error(error: Exception, label: str, proxy: HttpProxy) -> PaddockError | None:
    """The error for a request that failed at the proxy; None for any other error."""
    if isinstance(error, aws.ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return proxy.refusal(status, label, StoreUnavailable) if status == _PROXY_AUTHENTICATION_REQUIRED else None
    failure = proxy.tunnel_refusal(error, label, StoreUnavailable)
    if failure is None and isinstance(error, aws.ProxyConnectionError):
        return proxy.unreachable(label, StoreUnavailable)
    return failure


def error_code(error: aws.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code") or "unknown")


def error_status(error: aws.ClientError) -> int:
    """The HTTP status of an error response, 0 where there is none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def is_absent(error: aws.ClientError) -> bool:
    """Whether the service reports that there is no such object. A response to HEAD has no code."""
    return error_status(error) == 404 and error_code(error) not in _OTHER_ABSENCES


def is_lost_race(error: aws.ClientError) -> bool:
    """Whether the service reports that the condition of a write does not hold."""
    return error_code(error) in _LOST_RACE or error_status(error) in {304, 412}


def may_refuse_a_header(error: aws.ClientError) -> bool:
    """Whether the service may have refused a request for a header that it does not know."""
    return error_status(error) in {400, 501} and error_code(error) not in _TRANSIENT_CODES | _KEY_CODES | _SIZE_CODES


@contextmanager
def mapped_errors(label: str, proxy: HttpProxy | None = None) -> Iterator[None]:
    """Map each error of botocore that a block raises. Every request is made inside such a block, and sent through
    `proxy`."""
    try:
        yield
    except PaddockError:
        raise
    except (aws.ClientError, aws.BotoCoreError, ResponseParserError, ValueError) as error:  # a malformed number or date
        raise store_error(error, label, proxy) from None
