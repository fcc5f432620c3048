"""Read Paddock's settings from environment variables. The only module that reads the environment.

Variables have the ecosystem's names (`HF_…`) where they exist, and otherwise Paddock's own (`PADDOCK_…`). `AWS_…` and
`PREFECT_…` are read by boto3 and Prefect themselves. `docs/settings.md` lists every setting; a test compares the two.
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
from paddock.network import Network

MIB = 1024 * 1024

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}")
_TOKEN = re.compile(r"[!-~]+")


class Settings(BaseModel):
    """The settings of a process. Sizes are in bytes, times in seconds, rates in bytes per second.

    Constructing an instance does not read the environment; `load` does.
    """

    # validate_default: also expands `~` in defaults. allow_inf_nan: an infinite time limit is a mistake
    model_config = ConfigDict(
        frozen=True,
        validate_by_name=True,
        validate_by_alias=True,
        validate_default=True,
        extra="forbid",
        allow_inf_nan=False,
    )

    volume: Path = Field(default=Path("/models"), validation_alias="PADDOCK_VOLUME", description="Root of the volume")
    s3_uri: str | None = Field(
        default=None, validation_alias="PADDOCK_S3_URI", description="`s3://bucket/prefix`; unset: no S3"
    )
    s3_path_style: bool | None = Field(
        default=None,
        validation_alias="PADDOCK_S3_PATH_STYLE",
        description="`1` puts the bucket into the path of an address, `0` into the host name; unset: boto3 chooses",
    )
    s3_encryption: Literal["AES256", "aws:kms"] | None = Field(
        default=None,
        validation_alias="PADDOCK_S3_ENCRYPTION",
        description="Server-side encryption of each object: `AES256` or `aws:kms`; unset: the bucket's default",
    )
    s3_kms_key: str | None = Field(
        default=None,
        max_length=2048,
        validation_alias="PADDOCK_S3_KMS_KEY",
        description="Id of the key for `aws:kms`; unset: the account's own",
    )
    s3_storage_class: str | None = Field(
        default=None,
        pattern=r"^[A-Z][A-Z0-9_]{1,63}$",
        validation_alias="PADDOCK_S3_STORAGE_CLASS",
        description="Storage class of blobs, such as `INTELLIGENT_TIERING`; unset: the bucket's default",
    )
    lease_s: float = Field(
        default=30.0,
        ge=2,  # S3 reports the age of an object in whole seconds
        le=3600,
        validation_alias="PADDOCK_LEASE_S",
        description="A worker that holds a download lease and does not renew it for this long is considered dead",
    )
    keep_revisions: int = Field(
        default=3,
        ge=0,
        le=10_000,
        validation_alias="PADDOCK_KEEP_REVISIONS",
        description="How many of the newest distinct weights of a variant stay on the volume, in addition to what is "
        "promoted, pinned or used; `0` keeps all",
    )
    segment_bytes: int = Field(
        default=64 * MIB,
        ge=64 * 1024,
        le=1024 * MIB,
        validation_alias="PADDOCK_SEGMENT_BYTES",
        description="Size of a segment, the unit of repair and of segment digests",
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
        description="Download backend: `paddock`, `hf_transfer` or `xet`; unset: `paddock`, or `hf_transfer` with "
        "`HF_HUB_ENABLE_HF_TRANSFER`",
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
        description="A connection that sends nothing for this long is dropped and retried",
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
    llama_server: Path | None = Field(
        default=None,
        validation_alias="PADDOCK_LLAMA_SERVER",
        description="Another `llama-server` for `paddock serve`; unset: the one built with the engine",
    )
    api_key: SecretStr | None = Field(
        default=None,
        validation_alias="PADDOCK_API_KEY",
        description="Key that clients of `paddock serve` must send; required to serve other machines",
    )
    cors_origins: tuple[str, ...] | None = Field(
        default=None,
        validation_alias="PADDOCK_CORS_ORIGINS",
        description="Origins of web pages that may use a served model, such as `https://chat.example`, separated by "
        "commas; `*` for any; unset: none",
    )
    queue: int = Field(
        default=64,
        ge=0,
        le=4096,
        validation_alias="PADDOCK_QUEUE",
        description="Maximum number of requests in the queue of a served model; further ones get status 429",
    )
    grace_s: float = Field(
        default=20.0,
        gt=0,
        le=3600,
        validation_alias="PADDOCK_GRACE_S",
        description="How long a stopping server may take to finish running requests",
    )
    follow_promotion: bool = Field(
        default=True,
        validation_alias="PADDOCK_FOLLOW_PROMOTION",
        description="`0`: a running server keeps its revision when another one is promoted",
    )
    docs_url: str | None = Field(
        default=None,
        validation_alias="PADDOCK_DOCS_URL",
        description="URL at which a web server publishes the volume's `.paddock/docs`; unset: their path is shown",
    )
    maintenance_cron: str = Field(
        default="30 3 * * 0",
        validation_alias="PADDOCK_MAINTENANCE_CRON",
        description="When `maintain-volume/weekly` runs, as a cron expression in UTC; read when the flows are deployed",
    )
    cache: Path = Field(
        default=Path("~/.cache"),
        validation_alias="XDG_CACHE_HOME",
        description="Directory for files that can be recreated, in its subdirectory `paddock/`",
    )
    hub_endpoint: str = Field(
        default="https://huggingface.co", validation_alias="HF_ENDPOINT", description="Address of the Hub"
    )
    hub_token: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
        description="Token for gated and private repositories; unset: the token that `hf auth login` stored",
    )
    hub_transfer: bool = Field(
        default=False,
        validation_alias="HF_HUB_ENABLE_HF_TRANSFER",
        description="`1`: download with hf_transfer, unless `PADDOCK_TRANSFER` is set",
    )
    hub_offline: bool = Field(
        default=False, validation_alias="HF_HUB_OFFLINE", description="`1`: make no requests to the Hub"
    )
    https_proxy: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("https_proxy", "HTTPS_PROXY"),
        description="Proxy for `https://` addresses; unset: `all_proxy`",
    )
    http_proxy: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("http_proxy", "HTTP_PROXY"),
        description="Proxy for `http://` addresses; unset: `all_proxy`",
    )
    all_proxy: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("all_proxy", "ALL_PROXY"),
        description="Proxy for all addresses; unset: none",
    )
    no_proxy: str = Field(
        default="",
        validation_alias=AliasChoices("no_proxy", "NO_PROXY"),
        description="Hosts that are reached without a proxy",
    )
    ssl_cert_file: Path | None = Field(
        default=None,
        validation_alias="SSL_CERT_FILE",
        description="PEM file with the certificate authorities to trust; unset: the system's",
    )
    requests_ca_bundle: Path | None = Field(
        default=None,
        validation_alias="REQUESTS_CA_BUNDLE",
        description="The same, where `SSL_CERT_FILE` is unset",
    )
    ssl_cert_dir: Path | None = Field(
        default=None,
        validation_alias="SSL_CERT_DIR",
        description="Directory with the certificate authorities to trust, where neither file is set",
    )

    @property
    def network(self) -> Network:
        """Proxies and certificates, for every HTTP client of the process."""
        http, https, both = (
            proxy.get_secret_value() if proxy else None for proxy in (self.http_proxy, self.https_proxy, self.all_proxy)
        )
        network = Network(http, https, both, self.no_proxy)
        for path, setting in (
            (self.ssl_cert_file, "SSL_CERT_FILE"),
            (self.requests_ca_bundle, "REQUESTS_CA_BUNDLE"),
            (self.ssl_cert_dir, "SSL_CERT_DIR"),
        ):
            if path is not None:
                return network.with_ca(path.absolute(), setting)
        return network

    @field_validator("volume", "cache")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        try:
            path = value.expanduser()
        except RuntimeError:
            raise ValueError("the home directory for `~` cannot be determined") from None
        if not path.is_absolute():
            raise ValueError("expected an absolute path")
        return path

    @field_validator("s3_uri")
    @classmethod
    def _s3(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = _split(value)
        if parts is None or not parts.scheme or not _BUCKET.fullmatch(parts.netloc) or parts[3:] != ("", ""):
            raise ValueError(
                "expected s3://bucket or s3://bucket/prefix"
            )  # whether a store supports the scheme is checked later
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

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _origins(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        origins = tuple(part.strip() for part in value.split(","))
        for origin in origins:
            parts = _split(origin)
            if origin != "*" and (
                parts is None
                or not parts.scheme
                or not parts.hostname
                or "@" in parts.netloc
                or origin != f"{parts.scheme}://{parts.netloc}".lower()
            ):
                raise ValueError("expected * or origins such as https://chat.example, separated by commas")
        return origins

    @field_validator("s3_kms_key")
    @classmethod
    def _for_kms(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("s3_encryption") != "aws:kms":
            raise ValueError("it requires PADDOCK_S3_ENCRYPTION to be aws:kms")
        return value

    @field_validator("hub_token", "api_key")
    @classmethod
    def _header(cls, value: SecretStr | None) -> SecretStr | None:
        # an invalid header would fail later, with an error of the HTTP client that quotes the secret
        if value is not None and not _TOKEN.fullmatch(value.get_secret_value()):
            raise ValueError("expected printable ASCII characters without spaces")
        return value


def _split(address: str) -> SplitResult | None:
    """Split a URL; None if it is invalid. The error of urlsplit itself would quote the value."""
    try:
        parts = urlsplit(address)
        _ = parts.port  # raises ValueError unless it is a number up to 65535
    except ValueError:
        return None
    return parts


def load() -> Settings:
    """Read the settings from the environment, again at each call. Empty variables count as unset.

    Raises BadSetting, which names the variable and the problem but never the value, since it may be a secret.
    """
    try:
        return Settings.model_validate(dict(_set_variables()), by_alias=True, by_name=False)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        reason = str(first["msg"]).removeprefix("Value error, ")
        raise BadSetting(
            f"the setting {first['loc'][0]} is not usable: {reason}", cure="correct it in the environment"
        ) from None


def _set_variables() -> Iterator[tuple[str, str]]:
    """(variable, value) for each setting, from the first of its variables that is not empty."""
    for field in Settings.model_fields.values():
        alias = field.validation_alias
        for variable in alias.choices if isinstance(alias, AliasChoices) else [alias]:
            value = os.environ.get(str(variable), "").strip()
            if value:
                yield str(variable), value
                break


_CHILD_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "TMPDIR", "LANG", "LC_ALL", "TZ")


def child_environment(**extra: str) -> dict[str, str]:
    """The environment for a process that reads untrusted data: no token or key, and no home directory that has one.

    It makes CUDA number GPUs by PCI bus, like NVML and `visible_gpus`; by default CUDA puts the fastest first.
    """
    inherited = {name: os.environ[name] for name in _CHILD_VARIABLES if name in os.environ}
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", **inherited, **extra}


def visible_gpus() -> tuple[str, ...] | None:
    """The numbers or UUIDs of GPUs in CUDA_VISIBLE_DEVICES; None if it is not set, and all GPUs are visible."""
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    return None if value is None else tuple(name.strip() for name in value.split(","))
