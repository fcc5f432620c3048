"""Declare every setting: its variable, type, default and description."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, field_validator

from paddock.confinement import UNPRIVILEGED_USER
from paddock.network import Network
from paddock.settings.values import (
    AbsolutePath,
    AwsKeys,
    CatalogPlace,
    Cron,
    Directories,
    HeaderSecret,
    Hosts,
    HttpAddress,
    Origins,
    Price,
    RemoteStoreUri,
    Size,
    SizeOrShare,
)

MIB = 1024 * 1024


class Settings(BaseModel):
    """The settings of a process. Sizes are in bytes, times in seconds, rates in bytes per second.

    Constructing an instance does not read the environment; `paddock.settings.load` does.
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

    volume: AbsolutePath = Field(
        default=Path("/models"), validation_alias="PADDOCK_VOLUME", description="Root of the volume"
    )
    worker: str | None = Field(
        default=None,
        max_length=63,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*$",
        validation_alias="PADDOCK_WORKER",
        description="Name of this machine in usage records, of its own for each machine; unset: the host name",
    )
    s3_uri: RemoteStoreUri | None = Field(
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
    aws_keys: AwsKeys | None = Field(
        default=None,
        exclude=True,
        description="Keys of S3 from elsewhere than the environment, which boto3 reads itself; of no variable",
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
    keep_bytes: SizeOrShare | None = Field(
        default=None,
        validation_alias="PADDOCK_KEEP_BYTES",
        description="Budget of `paddock gc` for the files on the volume: a size such as `500GiB`, or a share of the "
        "disk such as `80%`; unset: no budget",
    )
    catalog: CatalogPlace | None = Field(
        default=None,
        validation_alias="PADDOCK_CATALOG",
        description="File with the models that are wanted, or `s3://bucket/key`; unset: `infra/catalog.yaml` of the "
        "current directory, where there is one",
    )
    maintenance_cron: Cron = Field(
        default="30 3 * * 0",
        validation_alias="PADDOCK_MAINTENANCE_CRON",
        description="When `maintain-volume/weekly` runs, as a cron expression in UTC; read when the flows are deployed",
    )
    refresh_cron: Cron = Field(
        default="30 1 * * *",
        validation_alias="PADDOCK_REFRESH_CRON",
        description="When `refresh-catalog/nightly` runs, a cron expression in UTC; read when the flows are deployed",
    )
    s3_keep_bytes: Size | None = Field(
        default=None,
        validation_alias="PADDOCK_S3_KEEP_BYTES",
        description="Budget of `paddock gc --s3` for the files in S3, a size such as `2TiB`; unset: no budget",
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
    benchmark_budget_s: float = Field(
        default=60.0,
        ge=0,
        le=86_400,
        validation_alias="PADDOCK_BENCHMARK_BUDGET_S",
        description="How long a benchmark that was disturbed may be repeated, and a comparison of speeds that does not"
        " decide; `0`: they are not",
    )
    price_per_hour: Price | None = Field(
        default=None,
        validation_alias="PADDOCK_PRICE_PER_HOUR",
        description="What an hour of this machine costs, for `paddock cost`: a plain number such as `2.10`, in the "
        "currency in which prices are to be shown; unset: that of the catalog",
    )
    engine_user: int = Field(
        default=UNPRIVILEGED_USER,
        ge=1,
        le=2**31 - 1,
        validation_alias="PADDOCK_ENGINE_USER",
        description="Number of the user that the engine's processes run as, where Paddock runs as root",
    )
    engine_reads: Directories | None = Field(
        default=None,
        validation_alias="PADDOCK_ENGINE_READS",
        description="Further files and directories that the engine's processes may read, such as a driver's: absolute "
        "paths, separated by `:`; unset: none",
    )
    llama_server: Path | None = Field(
        default=None,
        validation_alias="PADDOCK_LLAMA_SERVER",
        description="Another `llama-server` for `paddock serve`; unset: the one built with the engine",
    )
    api_key: HeaderSecret | None = Field(
        default=None,
        validation_alias="PADDOCK_API_KEY",
        description="Key that clients of `paddock serve` must send; required to serve other machines",
    )
    serve_hosts: Hosts | None = Field(
        default=None,
        validation_alias="PADDOCK_SERVE_HOSTS",
        description="Host names and addresses under which clients reach a served model through a proxy or another "
        "name, such as `chat.example`, separated by commas; `*` for any; unset: this machine's own",
    )
    cors_origins: Origins | None = Field(
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
    watch_s: float = Field(
        default=900.0,
        ge=0,
        le=86_400,
        validation_alias="PADDOCK_WATCH_S",
        description="How long a running server watches a newly promoted revision, and rolls it back where it is worse;"
        " `0`: it does not",
    )
    log_format: Literal["text", "json"] = Field(
        default="text",
        validation_alias="PADDOCK_LOG_FORMAT",
        description="Lines on stderr: `text` for people, or `json`, an object a line",
    )
    docs_url: HttpAddress | None = Field(
        default=None,
        validation_alias="PADDOCK_DOCS_URL",
        description="URL at which a web server publishes the volume's `.paddock/docs`; unset: their path is shown",
    )
    cache: AbsolutePath = Field(
        default=Path("~/.cache"),
        validation_alias="XDG_CACHE_HOME",
        description="Directory for files that can be recreated, in its subdirectory `paddock/`",
    )
    hub_endpoint: HttpAddress = Field(
        default="https://huggingface.co", validation_alias="HF_ENDPOINT", description="Address of the Hub"
    )
    hub_token: HeaderSecret | None = Field(
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

    @field_validator("s3_kms_key")
    @classmethod
    def _for_kms(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("s3_encryption") != "aws:kms":
            raise ValueError("it requires PADDOCK_S3_ENCRYPTION to be aws:kms")
        return value
