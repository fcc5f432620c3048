"""Every error of huggingface_hub is mapped to one of Paddock's, and no message contains the token."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import errors as vendor

from infra.local.hub import HubService
from paddock.errors import (
    BadSetting,
    FileNotInRevision,
    HubRefused,
    HubUnavailable,
    ModelGated,
    ModelNotFound,
    PaddockError,
    RevisionNotFound,
)
from paddock.hub import map_hub_errors
from paddock.model.names import ModelName
from tests.hub.conftest import TOKEN, client

ENDPOINT = "https://hub.example"
WHAT = "org/name@0123abcd: model.gguf"

EXCEPTIONS = {
    name: value
    for name, value in vars(vendor).items()
    if isinstance(value, type) and issubclass(value, Exception) and value.__module__ == vendor.__name__
}
NOT_RAISED_BY_OUR_CALLS = {
    "CacheNotFound": "the cache on disk, which is not used",
    "CorruptedCacheException": "the cache on disk, which is not used",
    "CachedRepoTreeNotFoundError": "the cache on disk, which is not used",
    "RevisionResolutionError": "HfApi.resolve_revision",
    "FileDuplicationError": "copies between repositories",
    "OIDCError": "logging in",
    "DeviceCodeError": "logging in",
    "InferenceEndpointError": "inference endpoints",
    "InferenceEndpointTimeoutError": "inference endpoints",
    "SafetensorsParsingError": "metadata of SafeTensors",
    "NotASafetensorsRepoError": "metadata of SafeTensors",
    "DDUFError": "DDUF files",
    "DDUFCorruptedFileError": "DDUF files",
    "DDUFExportError": "DDUF files",
    "DDUFInvalidEntryNameError": "DDUF files",
    "StrictDataclassError": "configurations of models made by the library",
    "StrictDataclassDefinitionError": "configurations of models made by the library",
    "StrictDataclassFieldValidationError": "configurations of models made by the library",
    "StrictDataclassClassValidationError": "configurations of models made by the library",
    "XetDownloadError": "downloads through Xet",
    "CLIError": "its command line",
    "ConfirmationError": "its command line",
    "CLIExtensionInstallError": "its command line",
    "SandboxError": "its sandboxes",
    "SandboxCommandError": "its sandboxes",
}
MAPPED: dict[str, type[PaddockError]] = {
    "GatedRepoError": ModelGated,
    "RepositoryNotFoundError": ModelNotFound,
    "RevisionNotFoundError": RevisionNotFound,
    "EntryNotFoundError": FileNotInRevision,
    "RemoteEntryNotFoundError": FileNotInRevision,
    "LocalEntryNotFoundError": HubUnavailable,
    "IncompleteSnapshotError": HubUnavailable,
    "OfflineModeIsEnabled": HubRefused,
    "LocalTokenNotFoundError": HubRefused,
    "DisabledRepoError": HubRefused,
    "BadRequestError": HubRefused,
    "HFValidationError": HubRefused,
    "FileMetadataError": HubUnavailable,
}


def make_error(kind: type[Exception], *, status: int = 404) -> Exception:
    """Create an error as the library does: with the response, and the request that carried the token."""
    request = httpx2.Request("GET", f"{ENDPOINT}/api", headers={"Authorization": f"Bearer {TOKEN}"})
    arguments = {
        "response": httpx2.Response(status, request=request),
        "message": "the message",
        "msg": "the message",
        "uri": "hf://x",
        "snapshot_path": "/cache",
    }
    has_own_init = inspect.isfunction(kind.__init__)  # else it is inherited from Exception, and takes a message
    required = [
        parameter
        for parameter in (inspect.signature(kind).parameters.values() if has_own_init else ())
        if parameter.default is parameter.empty
        and parameter.kind not in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}
    ]
    return (
        kind(**{parameter.name: arguments[parameter.name] for parameter in required})
        if required
        else kind("the message")
    )


def mapped(error: Exception) -> PaddockError:
    with pytest.raises(PaddockError) as caught, map_hub_errors(ENDPOINT, WHAT):
        raise error
    return caught.value


def test_no_class_is_both_mapped_and_excluded() -> None:
    assert NOT_RAISED_BY_OUR_CALLS.keys() <= EXCEPTIONS.keys()
    assert MAPPED.keys() <= EXCEPTIONS.keys()
    assert not MAPPED.keys() & NOT_RAISED_BY_OUR_CALLS.keys()


@pytest.mark.parametrize("name", sorted(EXCEPTIONS.keys() - NOT_RAISED_BY_OUR_CALLS.keys()))
def test_each_error_of_huggingface_hub_is_mapped_without_the_token(name: str) -> None:
    error = mapped(make_error(EXCEPTIONS[name]))
    assert type(error) is MAPPED.get(name, type(error))
    assert WHAT in error.message
    assert ENDPOINT in str(error) or type(error) is HubRefused
    assert TOKEN not in f"{error} {error!r} {pickle.dumps(error)!r}"
    assert error.__suppress_context__
    assert pickle.loads(pickle.dumps(error)).message == error.message


TRANSPORT: dict[str, tuple[Exception, type[PaddockError]]] = {
    "a connection refused": (httpx2.ConnectError("[Errno 111] Connection refused"), HubUnavailable),
    "no answer in time": (httpx2.ReadTimeout(""), HubUnavailable),
    "a connection cut": (httpx2.RemoteProtocolError("peer closed connection"), HubUnavailable),
    "a proxy that refuses": (httpx2.ProxyError("407"), HubUnavailable),
    "a body that does not decode": (httpx2.DecodingError("bad gzip"), HubUnavailable),
    "an address that does not parse": (httpx2.InvalidURL("bad"), HubUnavailable),
    "a failed look-up": (OSError(-2, "Name or service not known"), HubUnavailable),
    "no JSON": (ValueError("Expecting value: line 1 column 1"), HubUnavailable),
    "JSON of another shape": (KeyError("siblings"), HubRefused),
    "a header that cannot be sent": (
        httpx2.LocalProtocolError(f"Illegal header value b'Bearer {TOKEN}\\x01'"),
        BadSetting,
    ),
}


@pytest.mark.parametrize(("error", "kind"), TRANSPORT.values(), ids=TRANSPORT)
def test_each_error_of_the_http_client_is_mapped_without_the_token(error: Exception, kind: type[PaddockError]) -> None:
    paddock_error = mapped(error)
    assert type(paddock_error) is kind
    assert WHAT in paddock_error.message
    assert TOKEN not in str(paddock_error)


@pytest.mark.parametrize("status", [*range(400, 430), 451, *range(500, 512), 520, 522, 524])
def test_every_status_is_transient_or_permanent(status: int) -> None:
    error = mapped(make_error(vendor.HfHubHTTPError, status=status))
    is_transient = status in {408, 425, 429, 500, 502, 503, 504, 520, 522, 524}
    assert type(error) is (HubUnavailable if is_transient else HubRefused)
    assert f"answered {status} for {WHAT}" in error.message


@pytest.mark.parametrize("error", [PaddockError("of Paddock"), KeyboardInterrupt(), RuntimeError("a bug")], ids=repr)
def test_other_exceptions_pass_unchanged(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, map_hub_errors(ENDPOINT, WHAT):
        raise error
    assert caught.value is error


def test_no_error_is_raised_without_an_error() -> None:
    with map_hub_errors(ENDPOINT, WHAT):
        pass


LISTING: list[Callable[[HubService], object]] = [
    lambda hub: hub.inject("status", where="hub", status=500),
    lambda hub: hub.inject("status", where="hub", status=400),
    lambda hub: hub.inject("status", where="hub", status=403),
    lambda hub: hub.inject("html", where="hub"),
    lambda hub: hub.inject("redirect", where="hub", location="http://127.0.0.1:1/"),
    lambda hub: hub.inject("gzip", where="hub"),
    lambda hub: None,
]


@pytest.mark.parametrize("fault", LISTING, ids=["500", "400", "403", "html", "redirect", "gzip", "refused token"])
def test_no_message_about_a_real_response_has_the_token(hub: HubService, fault: Callable[[HubService], object]) -> None:
    fault(hub)
    with pytest.raises(PaddockError) as caught:
        client(hub, token=TOKEN).listing(ModelName.parse("org/name"))
    assert TOKEN not in f"{caught.value} {caught.value!r} {caught.value.__dict__}"


@pytest.mark.parametrize("stored", [f"{TOKEN}\x01", f"{TOKEN}é"], ids=["a control character", "an accent"])
def test_a_stored_token_with_invalid_characters_is_not_shown(hub: HubService, stored_token: Path, stored: str) -> None:
    stored_token.write_text(stored)
    with pytest.raises(PaddockError) as caught:
        client(hub).listing(ModelName.parse("org/name"))
    assert TOKEN not in f"{caught.value} {caught.value!r}"
