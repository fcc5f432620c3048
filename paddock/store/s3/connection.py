"""Make boto3's S3 client, and the request parameters of each write: encryption and storage class.

The endpoint and the keys come from the AWS environment variables and files, which boto3 reads itself, unless the
settings have keys from elsewhere. Proxies and certificates do not, except for AWS's own setting of a CA bundle. Only
boto3 retries a request; nothing above it does.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from paddock.errors import BadSetting
from paddock.network import DIRECT, HttpProxy, Network
from paddock.network.certificates import system_bundle
from paddock.settings import AwsKeys, Settings
from paddock.store.s3.answers import refuse_other_answers
from paddock.store.s3.bodies import bound_answers

if TYPE_CHECKING:
    from botocore.config import _ProxiesConfigDict
    from botocore.loaders import Loader
    from mypy_boto3_s3 import S3Client

Encryption = Literal["AES256", "aws:kms"]

_CONNECT_S = 3.0  # with three attempts, an unreachable S3 is reported within about ten seconds
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class S3Options:
    """Options of the S3 client.

    `connections` is the number of parts that are sent at once, `open_connections` that of connections which are kept
    for other requests, `stall_s` the read timeout of a request in seconds.
    `path_style` None leaves the addressing style to boto3: the bucket is in the path for an IP address, else in the
    host name. `keys` None leaves them to boto3.
    """

    connections: int = 4
    open_connections: int = 10
    stall_s: float = 30.0
    path_style: bool | None = None
    encryption: Encryption | None = None
    kms_key: str | None = None
    storage_class: str | None = None
    network: Network = DIRECT
    keys: AwsKeys | None = None

    @staticmethod
    def of(settings: Settings) -> S3Options:
        return S3Options(
            open_connections=max(10, settings.connections),
            stall_s=settings.stall_s,
            path_style=settings.s3_path_style,
            encryption=settings.s3_encryption,
            kms_key=settings.s3_kms_key,
            storage_class=settings.s3_storage_class,
            network=settings.network,
            keys=settings.aws_keys,
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


@dataclass(frozen=True, slots=True)
class S3Connection:
    """A client, the network by which it reaches S3, and the proxy that it uses, if any."""

    client: S3Client
    network: Network = DIRECT
    proxy: HttpProxy | None = None


def connect(options: S3Options) -> S3Connection:
    """Make a client. Opens no connection; raises ValueError for an AWS_ENDPOINT_URL that is no address, and BadSetting
    for a proxy or certificates that cannot be used."""
    import botocore.session
    from boto3.session import Session
    from botocore.config import Config

    aws = botocore.session.get_session()
    network, bundle = options.network, aws.get_config_variable("ca_bundle")
    if bundle:
        network = network.with_ca(Path(bundle).absolute(), "AWS_CA_BUNDLE")
    if aws.get_config_variable("data_path") is None:  # else the user's own descriptions
        aws.register_component("data_loader", _loader())
    if keys := options.keys:
        aws.set_credentials(keys.access_key_id, keys.secret_access_key, keys.session_token)
    session = Session(botocore_session=aws)
    verify = str(network.ca_path or system_bundle())
    styles: dict[bool | None, Literal["auto", "path", "virtual"]] = {None: "auto", True: "path", False: "virtual"}
    config = Config(
        connect_timeout=_CONNECT_S,
        read_timeout=options.stall_s,
        retries={"total_max_attempts": _ATTEMPTS, "mode": "standard"},
        max_pool_connections=max(options.open_connections, options.connections),
        signature_version="s3v4",
        s3={"addressing_style": styles[options.path_style]},
        # Paddock sends a sha256 of its own with each part, and verifies what it fetches.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        proxies={},  # None: botocore would read the environment
    )
    client = session.client("s3", config=config, verify=verify)
    endpoint = client.meta.endpoint_url
    proxy = network.proxy_for(endpoint)
    if endpoint.startswith("https") or (proxy and proxy.scheme == "https"):
        _check_certificates(network)
    if proxy is not None:  # only the client tells which endpoint it uses
        proxied = config.merge(Config(proxies=_proxies(proxy), proxies_config=_proxies_config(proxy, verify)))
        client = session.client("s3", config=proxied, verify=verify)
    bound_answers(client)
    client.meta.events.register("before-parse.s3", refuse_other_answers)
    return S3Connection(client, network, proxy)


@cache
def _loader() -> Loader:
    """Botocore's reader of its descriptions of S3 and of all endpoints, one for all clients: it keeps what it has read,
    2 MB of JSON, and which services there are, for which it looks into hundreds of directories."""
    from botocore.loaders import JSONFileLoader, Loader

    class CachedFiles(JSONFileLoader):
        @cache  # noqa: B019 - of one instance
        def load_file(self, file_path: str) -> Any:
            return super().load_file(file_path)

    return Loader(file_loader=CachedFiles())


def _proxies(proxy: HttpProxy) -> dict[str, str]:
    if proxy.user is not None and not (proxy.user and proxy.password and (proxy.user + proxy.password).isascii()):
        raise BadSetting(
            f"boto3 cannot send the user name and password of {proxy.label}: it requires both, in ASCII",
            cure=f"use other credentials in {proxy.setting}, or add the endpoint of S3 to NO_PROXY",
        )
    return dict.fromkeys(("http", "https"), proxy.secret_url)


def _proxies_config(proxy: HttpProxy, verify: str) -> _ProxiesConfigDict | None:
    return {"proxy_ca_bundle": verify} if proxy.scheme == "https" else None


def _check_certificates(network: Network) -> None:
    network.ssl_context()
    if network.ca_path is not None and network.ca_path.is_dir():
        raise BadSetting(
            f"boto3 cannot use a directory of certificates, which {network.ca_setting} is",
            cure="set AWS_CA_BUNDLE to a PEM file",
        )
