"""Declare the environment variables of every setting, how their values are parsed, and their descriptions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from paddock.errors import BadSetting
from paddock.settings.values import (
    Number,
    OneOf,
    Text,
    Whole,
    parse_absolute_path,
    parse_catalog_place,
    parse_cron,
    parse_directories,
    parse_flag,
    parse_header_secret,
    parse_hosts,
    parse_http_address,
    parse_origins,
    parse_path,
    parse_price,
    parse_secret,
    parse_size,
    parse_size_or_share,
    parse_store_uri,
    parse_text,
)


class Setting:
    """The declaration of a setting: the variables that it is read from, of which the first that is set counts, and the
    parser of its values, which raises ValueError with what was expected."""

    __slots__ = ("description", "names", "parse")

    def __init__(self, names: str | tuple[str, ...], parse: Callable[[object], object], description: str) -> None:
        self.names = (names,) if isinstance(names, str) else names
        self.parse = parse
        self.description = description

    def read(self, value: object, *, source: str, cure: str = "correct it in the environment") -> Any:
        """The value as it is used. Raises BadSetting, which names the source and never the value, since it may be a
        secret."""
        try:
            return self.parse(value)
        except ValueError as error:
            message = f"{source} is not usable: {error}"
        raise BadSetting(message, cure=cure)


SETTINGS: Final[dict[str, Setting]] = {
    "volume": Setting("PADDOCK_VOLUME", parse_absolute_path, "Root of the volume"),
    "worker": Setting(
        "PADDOCK_WORKER",
        Text(63, r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*", "a name such as gpu-7"),
        "Name of this machine in usage records, of its own for each machine; unset: the host name",
    ),
    "s3_uri": Setting(
        "PADDOCK_S3_URI",
        parse_store_uri,
        "`s3://bucket/prefix`; unset: no S3",
    ),
    "s3_path_style": Setting(
        "PADDOCK_S3_PATH_STYLE",
        parse_flag,
        "`1` puts the bucket into the path of an address, `0` into the host name; unset: boto3 chooses",
    ),
    "s3_encryption": Setting(
        "PADDOCK_S3_ENCRYPTION",
        OneOf("AES256", "aws:kms"),
        "Server-side encryption of each object: `AES256` or `aws:kms`; unset: the bucket's default",
    ),
    "s3_kms_key": Setting(
        "PADDOCK_S3_KMS_KEY",
        Text(2048),
        "Id of the key for `aws:kms`; unset: the account's own",
    ),
    "s3_storage_class": Setting(
        "PADDOCK_S3_STORAGE_CLASS",
        Text(64, r"[A-Z][A-Z0-9_]+", "capital letters, digits and _"),
        "Storage class of blobs, such as `INTELLIGENT_TIERING`; unset: the bucket's default",
    ),
    "lease_s": Setting(
        "PADDOCK_LEASE_S",
        Number(at_least=2, at_most=3600),
        "A worker that holds a download lease and does not renew it for this long is considered dead",
    ),
    "keep_revisions": Setting(
        "PADDOCK_KEEP_REVISIONS",
        Whole(at_least=0, at_most=10000),
        "How many of the newest distinct weights of a variant stay on the volume, in addition to what is "
        "promoted, pinned or used; `0` keeps all",
    ),
    "keep_bytes": Setting(
        "PADDOCK_KEEP_BYTES",
        parse_size_or_share,
        "Budget of `paddock gc` for the files on the volume: a size such as `500GiB`, or a share of the "
        "disk such as `80%`; unset: no budget",
    ),
    "catalog": Setting(
        "PADDOCK_CATALOG",
        parse_catalog_place,
        "File with the models that are wanted, or `s3://bucket/key`; unset: `infra/catalog.yaml` of the "
        "current directory, where there is one",
    ),
    "maintenance_cron": Setting(
        "PADDOCK_MAINTENANCE_CRON",
        parse_cron,
        "When `maintain-volume/weekly` runs, as a cron expression in UTC; read when the flows are deployed",
    ),
    "refresh_cron": Setting(
        "PADDOCK_REFRESH_CRON",
        parse_cron,
        "When `refresh-catalog/nightly` runs, a cron expression in UTC; read when the flows are deployed",
    ),
    "s3_keep_bytes": Setting(
        "PADDOCK_S3_KEEP_BYTES",
        parse_size,
        "Budget of `paddock gc --s3` for the files in S3, a size such as `2TiB`; unset: no budget",
    ),
    "segment_bytes": Setting(
        "PADDOCK_SEGMENT_BYTES",
        Whole(at_least=64 * 1024, at_most=1024 * 1024 * 1024),
        "Size of a segment, the unit of repair and of segment digests",
    ),
    "connections": Setting(
        "PADDOCK_CONNECTIONS",
        Whole(at_least=1, at_most=64),
        "Parallel ranges, over all transfers of a process",
    ),
    "transfer": Setting(
        "PADDOCK_TRANSFER",
        OneOf("paddock", "hf_transfer", "xet"),
        "Download backend: `paddock`, `hf_transfer` or `xet`; unset: `paddock`, or `hf_transfer` with "
        "`HF_HUB_ENABLE_HF_TRANSFER`",
    ),
    "limit_rate_bytes_per_s": Setting(
        "PADDOCK_LIMIT_RATE",
        Whole(at_least=1024),
        "Bandwidth limit over all connections, bytes per second",
    ),
    "stall_s": Setting(
        "PADDOCK_STALL_S",
        Number(at_most=600, above=0),
        "A connection that sends nothing for this long is dropped and retried",
    ),
    "threads": Setting(
        "PADDOCK_THREADS",
        Whole(at_least=1, at_most=1024),
        "Engine threads; unset: every core",
    ),
    "engine_timeout_s": Setting(
        "PADDOCK_ENGINE_TIMEOUT_S",
        Number(above=0),
        "Time limit of one engine process",
    ),
    "benchmark_budget_s": Setting(
        "PADDOCK_BENCHMARK_BUDGET_S",
        Number(at_least=0, at_most=86400),
        "How long a benchmark that was disturbed may be repeated, and a comparison of speeds that does not "
        "decide; `0`: they are not",
    ),
    "price_per_hour": Setting(
        "PADDOCK_PRICE_PER_HOUR",
        parse_price,
        "What an hour of this machine costs, for `paddock cost`: a plain number such as `2.10`, in the "
        "currency in which prices are to be shown; unset: that of the catalog",
    ),
    "engine_user": Setting(
        "PADDOCK_ENGINE_USER",
        Whole(at_least=1, at_most=2**31 - 1),
        "Number of the user that the engine's processes run as, where Paddock runs as root",
    ),
    "engine_reads": Setting(
        "PADDOCK_ENGINE_READS",
        parse_directories,
        "Further files and directories that the engine's processes may read, such as a driver's: absolute "
        "paths, separated by `:`; unset: none",
    ),
    "llama_server": Setting(
        "PADDOCK_LLAMA_SERVER",
        parse_path,
        "Another `llama-server` for `paddock serve`; unset: the one built with the engine",
    ),
    "api_key": Setting(
        "PADDOCK_API_KEY",
        parse_header_secret,
        "Key that clients of `paddock serve` must send; required to serve other machines",
    ),
    "serve_hosts": Setting(
        "PADDOCK_SERVE_HOSTS",
        parse_hosts,
        "Host names and addresses under which clients reach a served model through a proxy or another name,"
        " such as `chat.example`, separated by commas; `*` for any; unset: this machine's own",
    ),
    "cors_origins": Setting(
        "PADDOCK_CORS_ORIGINS",
        parse_origins,
        "Origins of web pages that may use a served model, such as `https://chat.example`, separated by "
        "commas; `*` for any; unset: none",
    ),
    "queue": Setting(
        "PADDOCK_QUEUE",
        Whole(at_least=0, at_most=4096),
        "Maximum number of requests in the queue of a served model; further ones get status 429",
    ),
    "grace_s": Setting(
        "PADDOCK_GRACE_S",
        Number(at_most=3600, above=0),
        "How long a stopping server may take to finish running requests",
    ),
    "follow_promotion": Setting(
        "PADDOCK_FOLLOW_PROMOTION",
        parse_flag,
        "`0`: a running server keeps its revision when another one is promoted",
    ),
    "watch_s": Setting(
        "PADDOCK_WATCH_S",
        Number(at_least=0, at_most=86400),
        "How long a running server watches a newly promoted revision, and rolls it back where it is worse; "
        "`0`: it does not",
    ),
    "log_format": Setting(
        "PADDOCK_LOG_FORMAT",
        OneOf("text", "json"),
        "Lines on stderr: `text` for people, or `json`, an object a line",
    ),
    "docs_url": Setting(
        "PADDOCK_DOCS_URL",
        parse_http_address,
        "URL at which a web server publishes the volume's `.paddock/docs`; unset: their path is shown",
    ),
    "cache": Setting(
        "XDG_CACHE_HOME",
        parse_absolute_path,
        "Directory for files that can be recreated, in its subdirectory `paddock/`",
    ),
    "hub_endpoint": Setting(
        "HF_ENDPOINT",
        parse_http_address,
        "Address of the Hub",
    ),
    "hub_token": Setting(
        ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
        parse_header_secret,
        "Token for gated and private repositories; unset: the token that `hf auth login` stored",
    ),
    "hub_transfer": Setting(
        "HF_HUB_ENABLE_HF_TRANSFER",
        parse_flag,
        "`1`: download with hf_transfer, unless `PADDOCK_TRANSFER` is set",
    ),
    "hub_offline": Setting("HF_HUB_OFFLINE", parse_flag, "`1`: make no requests to the Hub"),
    "https_proxy": Setting(
        ("https_proxy", "HTTPS_PROXY"),
        parse_secret,
        "Proxy for `https://` addresses; unset: `all_proxy`",
    ),
    "http_proxy": Setting(
        ("http_proxy", "HTTP_PROXY"),
        parse_secret,
        "Proxy for `http://` addresses; unset: `all_proxy`",
    ),
    "all_proxy": Setting(
        ("all_proxy", "ALL_PROXY"),
        parse_secret,
        "Proxy for all addresses; unset: none",
    ),
    "no_proxy": Setting(
        ("no_proxy", "NO_PROXY"),
        parse_text,
        "Hosts that are reached without a proxy",
    ),
    "ssl_cert_file": Setting(
        "SSL_CERT_FILE",
        parse_path,
        "PEM file with the certificate authorities to trust; unset: the system's",
    ),
    "requests_ca_bundle": Setting(
        "REQUESTS_CA_BUNDLE",
        parse_path,
        "The same, where `SSL_CERT_FILE` is unset",
    ),
    "ssl_cert_dir": Setting(
        "SSL_CERT_DIR",
        parse_path,
        "Directory with the certificate authorities to trust, where neither file is set",
    ),
}
"""The declarations by the names of the fields of `Settings`."""
