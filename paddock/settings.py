"""The only place that reads the environment.

Names are Paddock's own (`PADDOCK_…`) where no name exists, and the ecosystem's (`HF_…`) where one does. `AWS_…` and
`PREFECT_…` are read by boto3 and Prefect themselves. The table in the README lists every setting; a test holds the two
together.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from paddock.errors import BadSetting

MIB = 1024 * 1024


class Settings(BaseSettings):
    """What a process was told by its environment. Sizes are bytes, rates bytes per second."""

    model_config = SettingsConfigDict(frozen=True, env_ignore_empty=True, populate_by_name=True, extra="ignore")

    volume: Path = Field(
        default=Path("/models"), validation_alias="PADDOCK_VOLUME", description="The root of the volume"
    )
    s3_uri: str | None = Field(
        default=None, validation_alias="PADDOCK_S3_URI", description="`s3://bucket/prefix`; unset: no S3"
    )
    segment_bytes: int = Field(
        default=64 * MIB,
        ge=64 * 1024,
        le=1024 * MIB,
        validation_alias="PADDOCK_SEGMENT_BYTES",
        description="The unit of resume, of repair and of digests",
    )
    connections: int = Field(
        default=8, ge=1, le=64, validation_alias="PADDOCK_CONNECTIONS", description="Parallel ranges of one transfer"
    )
    limit_rate_bytes_per_s: int | None = Field(
        default=None, ge=1024, validation_alias="PADDOCK_LIMIT_RATE", description="Bandwidth limit over all connections"
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
    hub_offline: bool = Field(
        default=False, validation_alias="HF_HUB_OFFLINE", description="`1`: only the volume and S3 are asked"
    )

    @field_validator("volume", "cache")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        path = value.expanduser()
        if not path.is_absolute():
            raise ValueError("an absolute path is needed")
        return path

    @field_validator("s3_uri")
    @classmethod
    def _s3(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment:
            raise ValueError("expected s3://bucket or s3://bucket/prefix")
        return value.rstrip("/")

    @field_validator("hub_endpoint")
    @classmethod
    def _http(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.netloc or parts.username:
            raise ValueError("expected an http:// or https:// address without credentials")
        return value.rstrip("/")


def load() -> Settings:
    """The settings of this process, read anew at each call.

    Raises BadSetting that names the variable and what is wrong with it, and never shows the value: it may be a secret.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        variable = str(first["loc"][0]) if first["loc"] else "environment"
        reason = str(first["msg"]).removeprefix("Value error, ")
        raise BadSetting(
            f"the setting {variable} is not usable: {reason}", cure="correct it in the environment"
        ) from None


_FOR_CHILDREN = ("PATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "TMPDIR", "LANG", "LC_ALL", "TZ")


def child_environment(**more: str) -> dict[str, str]:
    """The environment of a process that reads untrusted bytes: no token, no key, no home directory to find one in."""
    return {name: os.environ[name] for name in _FOR_CHILDREN if name in os.environ} | more
