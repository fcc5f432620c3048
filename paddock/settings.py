"""The only place that reads the environment.

Names are Paddock's own (`PADDOCK_…`) where no name exists, and the ecosystem's (`HF_…`) where one does. `AWS_…` and
`PREFECT_…` are read by boto3 and Prefect themselves. The table in the README lists every setting; a test holds the two
together.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from paddock.errors import BadSetting

MIB = 1024 * 1024

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}")
_TOKEN = re.compile(r"[!-~]+")


class Settings(BaseModel):
    """What a process was told by its environment. Sizes are bytes, rates bytes per second.

    Making one by the names of its fields reads no environment; `load` does.
    """

    # validate_default: `~` in a default stands for the home directory too; allow_inf_nan: a time limit that never
    # comes is a mistake
    model_config = ConfigDict(
        frozen=True,
        validate_by_name=True,
        validate_by_alias=True,
        validate_default=True,
        extra="forbid",
        allow_inf_nan=False,
    )

    volume: Path = Field(
        default=Path("/models"), validation_alias="PADDOCK_VOLUME", description="The root of the volume"
    )
    s3_uri: str | None = Field(
        default=None, validation_alias="PADDOCK_S3_URI", description="`s3://bucket/prefix`; unset: no S3"
    )
    s3_path_style: bool | None = Field(
        default=None,
        validation_alias="PADDOCK_S3_PATH_STYLE",
        description="`1`: the bucket stands in the path of an address, `0`: in its host name; unset: as boto3 sees fit",
    )
    s3_encryption: Literal["AES256", "aws:kms"] | None = Field(
        default=None,
        validation_alias="PADDOCK_S3_ENCRYPTION",
        description="What the server encrypts each object with: `AES256` or `aws:kms`; unset: the bucket's default",
    )
    s3_kms_key: str | None = Field(
        default=None,
        max_length=2048,
        validation_alias="PADDOCK_S3_KMS_KEY",
        description="The id of the key for `aws:kms`; unset: the account's own",
    )
    s3_storage_class: str | None = Field(
        default=None,
        pattern=r"^[A-Z][A-Z0-9_]{1,63}$",
        validation_alias="PADDOCK_S3_STORAGE_CLASS",
        description="The storage class of blobs, such as `INTELLIGENT_TIERING`; unset: the bucket's default",
    )
    lease_s: float = Field(
        default=30.0,
        ge=2,  # S3 tells the age of an object in whole seconds
        le=3600,
        validation_alias="PADDOCK_LEASE_S",
        description="A worker that fetches for the fleet and shows no sign of life for this long is taken for dead",
    )
    keep_revisions: int = Field(
        default=3,
        ge=0,
        le=10_000,
        validation_alias="PADDOCK_KEEP_REVISIONS",
        description="The newest distinct weights of a variant that stay on the volume, beside what is promoted, pinned "
        "or used; `0`: all",
    )
    segment_bytes: int = Field(
        default=64 * MIB,
        ge=64 * 1024,
        le=1024 * MIB,
        validation_alias="PADDOCK_SEGMENT_BYTES",
        description="The unit of repair and of digests",
    )
    connections: int = Field(
        default=16,
        ge=1,
        le=64,
        validation_alias="PADDOCK_CONNECTIONS",
        description="Parallel ranges, over all transfers of a process",
    )
    transfer: Literal["paddock", "hf_transfer", "xet"] | None = Field(
        default=None,
        validation_alias="PADDOCK_TRANSFER",
        description="What moves the bytes: `paddock`, `hf_transfer` or `xet`; unset: `paddock`, or what "
        "`HF_HUB_ENABLE_HF_TRANSFER` says",
    )
    limit_rate_bytes_per_s: int | None = Field(
        default=None,
        ge=1024,
        validation_alias="PADDOCK_LIMIT_RATE",
        description="Bandwidth limit over all connections, bytes per second",
    )
    stall_s: float = Field(
        default=30.0,
        gt=0,
        le=600,
        validation_alias="PADDOCK_STALL_S",
        description="A connection that sends nothing for this long is dropped and tried again",
    )
    threads: int | None = Field(
        default=None, ge=1, le=1024, validation_alias="PADDOCK_THREADS", description="Engine threads; unset: every core"
    )
    engine_timeout_s: float = Field(
        default=1800.0,
        gt=0,
        validation_alias="PADDOCK_ENGINE_TIMEOUT_S",
        description="Time limit of one engine process",
    )
    api_key: SecretStr | None = Field(
        default=None,
        validation_alias="PADDOCK_API_KEY",
        description="What clients of `serve` must send; needed to listen beyond this machine",
    )
    queue: int = Field(
        default=64,
        ge=0,
        le=4096,
        validation_alias="PADDOCK_QUEUE",
        description="How many requests may wait in front of a served model; the next one gets 429",
    )
    grace_s: float = Field(
        default=20.0,
        gt=0,
        le=3600,
        validation_alias="PADDOCK_GRACE_S",
        description="How long a server that is told to stop may take to end what it answers",
    )
    docs_url: str | None = Field(
        default=None,
        validation_alias="PADDOCK_DOCS_URL",
        description="Where a web server of yours shows the volume's `.paddock/docs`; unset: their path is told",
    )
    cache: Path = Field(
        default=Path("~/.cache"),
        validation_alias="XDG_CACHE_HOME",
        description="Where what can be made again is kept (under `paddock/`)",
    )
    hub_endpoint: str = Field(
        default="https://huggingface.co", validation_alias="HF_ENDPOINT", description="The Hub's address"
    )
    hub_token: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
        description="For gated and private repositories; unset: what `hf auth login` stored",
    )
    hub_transfer: bool = Field(
        default=False,
        validation_alias="HF_HUB_ENABLE_HF_TRANSFER",
        description="`1`: hf_transfer moves the bytes, where `PADDOCK_TRANSFER` says nothing else",
    )
    hub_offline: bool = Field(default=False, validation_alias="HF_HUB_OFFLINE", description="`1`: the Hub is not asked")

    @field_validator("volume", "cache")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        try:
            path = value.expanduser()
        except RuntimeError:
            raise ValueError("the home directory that `~` stands for is not known") from None
        if not path.is_absolute():
            raise ValueError("an absolute path is needed")
        return path

    @field_validator("s3_uri")
    @classmethod
    def _s3(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = _split(value)
        if parts is None or not parts.scheme or not _BUCKET.fullmatch(parts.netloc) or parts[3:] != ("", ""):
            raise ValueError("expected s3://bucket or s3://bucket/prefix")  # the scheme's store is found later
        return value.rstrip("/")

    @field_validator("hub_endpoint", "docs_url")
    @classmethod
    def _http(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = _split(value)
        if (
            parts is None
            or parts.scheme not in {"http", "https"}
            or not parts.hostname
            or "@" in parts.netloc
            or parts.query
            or parts.fragment
        ):
            raise ValueError("expected an http:// or https:// address without credentials")
        return value.rstrip("/")

    @field_validator("s3_kms_key")
    @classmethod
    def _for_kms(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("s3_encryption") != "aws:kms":
            raise ValueError("PADDOCK_S3_ENCRYPTION has to be aws:kms for it")
        return value

    @field_validator("hub_token", "api_key")
    @classmethod
    def _header(cls, value: SecretStr | None) -> SecretStr | None:
        # what no header can hold would fail later, in an error of the HTTP client that quotes the header
        if value is not None and not _TOKEN.fullmatch(value.get_secret_value()):
            raise ValueError("a token is of printable ASCII characters, without spaces")
        return value


def _split(address: str) -> SplitResult | None:
    """None for what is no address: urlsplit's own error quotes it."""
    try:
        parts = urlsplit(address)
        _ = parts.port  # raises where it is no number up to 65535
    except ValueError:
        return None
    return parts


def load() -> Settings:
    """The settings of this process, read anew at each call. An empty variable is an unset one.

    Raises BadSetting that names the variable and what is wrong with it, and never shows the value: it may be a secret.
    """
    try:
        return Settings.model_validate(dict(_given()), by_alias=True, by_name=False)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        reason = str(first["msg"]).removeprefix("Value error, ")
        raise BadSetting(
            f"the setting {first['loc'][0]} is not usable: {reason}", cure="correct it in the environment"
        ) from None


def _given() -> Iterator[tuple[str, str]]:
    """Each setting that the environment has, under the first of its variables that is not empty."""
    for field in Settings.model_fields.values():
        alias = field.validation_alias
        for variable in alias.choices if isinstance(alias, AliasChoices) else [alias]:
            value = os.environ.get(str(variable), "").strip()
            if value:
                yield str(variable), value
                break


_FOR_THE_NETWORK = tuple(
    name
    for lower in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ssl_cert_file", "ssl_cert_dir")
    for name in (lower, lower.upper())
)
_FOR_CHILDREN = ("PATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "TMPDIR", "LANG", "LC_ALL", "TZ")


def child_environment(**more: str) -> dict[str, str]:
    """The environment of a process that reads untrusted bytes: no token, no key, no home directory to find one in.

    It counts GPUs as NVML and `visible_gpus` do; CUDA by itself puts the fastest first.
    """
    kept = {name: os.environ[name] for name in _FOR_CHILDREN if name in os.environ}
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", **kept, **more}


def visible_gpus() -> tuple[str, ...] | None:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves to this process, by number or UUID; None where it leaves all."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return None if given is None else tuple(name.strip() for name in given.split(","))


def downloader_environment(**more: str) -> dict[str, str]:
    """The environment of a process that fetches bytes: how the network is reached, and no secret but a proxy's."""
    return child_environment(**{name: os.environ[name] for name in _FOR_THE_NETWORK if name in os.environ}, **more)
