"""The settings of a process, and their defaults. `paddock.settings.variables` declares where each is read from."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from paddock.confinement import UNPRIVILEGED_USER
from paddock.errors import BadSetting
from paddock.settings.variables import SETTINGS

if TYPE_CHECKING:
    from paddock.network import Network
    from paddock.settings.values import AwsKeys, Secret

MIB = 1024 * 1024


@dataclass(frozen=True)
class Settings:
    """The settings of a process. Sizes are in bytes, times in seconds, rates in bytes per second.

    Constructing an instance checks its values, and does not read the environment; `paddock.settings.load` does. Raises
    BadSetting.
    """

    volume: Path = Path("/models")
    worker: str | None = None
    s3_uri: str | None = None
    s3_path_style: bool | None = None
    s3_encryption: Literal["AES256", "aws:kms"] | None = None
    s3_kms_key: str | None = None
    s3_storage_class: str | None = None
    aws_keys: AwsKeys | None = field(default=None, repr=False)
    """Keys of S3 from elsewhere than the environment, which boto3 reads itself; of no variable."""
    lease_s: float = 30.0
    keep_revisions: int = 3
    keep_bytes: str | None = None
    catalog: Path | str | None = None
    maintenance_cron: str = "30 3 * * 0"
    refresh_cron: str = "30 1 * * *"
    s3_keep_bytes: str | None = None
    segment_bytes: int = 64 * MIB
    connections: int = 16
    transfer: Literal["paddock", "hf_transfer", "xet"] | None = None
    limit_rate_bytes_per_s: int | None = None
    stall_s: float = 30.0
    threads: int | None = None
    engine_timeout_s: float = 1800.0
    benchmark_budget_s: float = 60.0
    price_per_hour: float | None = None
    engine_user: int = UNPRIVILEGED_USER
    engine_reads: tuple[Path, ...] | None = None
    llama_server: Path | None = None
    api_key: Secret | None = None
    serve_hosts: tuple[str, ...] | None = None
    cors_origins: tuple[str, ...] | None = None
    queue: int = 64
    grace_s: float = 20.0
    follow_promotion: bool = True
    watch_s: float = 900.0
    log_format: Literal["text", "json"] = "text"
    docs_url: str | None = None
    cache: Path = Path("~/.cache")
    hub_endpoint: str = "https://huggingface.co"
    hub_token: Secret | None = None
    hub_transfer: bool = False
    hub_offline: bool = False
    https_proxy: Secret | None = None
    http_proxy: Secret | None = None
    all_proxy: Secret | None = None
    no_proxy: str = ""
    ssl_cert_file: Path | None = None
    requests_ca_bundle: Path | None = None
    ssl_cert_dir: Path | None = None

    def __post_init__(self) -> None:
        defaults = {one.name: one.default for one in fields(self)}
        for name, setting in SETTINGS.items():
            value = getattr(self, name)
            if value is not None or defaults[name] is not None:
                object.__setattr__(self, name, setting.read(value, source=f"the setting {setting.names[0]}"))
        if self.s3_kms_key is not None and self.s3_encryption != "aws:kms":
            raise BadSetting(
                "the setting PADDOCK_S3_KMS_KEY is not usable: it requires PADDOCK_S3_ENCRYPTION to be aws:kms",
                cure="correct it in the environment",
            )

    @property
    def network(self) -> Network:
        """Proxies and certificates, for every HTTP client of the process."""
        from paddock.network import Network

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
