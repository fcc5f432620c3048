"""Raise every error of huggingface_hub, and of its HTTP client, as one of Paddock's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

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
from paddock.network import DIRECT, Network, is_untrusted

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

_TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 522, 524})


@contextmanager
def map_hub_errors(  # noqa: PLR0912 - a branch for each kind of error
    endpoint: str, subject: str, *, network: Network = DIRECT
) -> Iterator[None]:
    """Raise the errors of huggingface_hub and of its HTTP client as Paddock's, with `subject` in the message. Those of
    the transport are Paddock's already.

    `LocalEntryNotFoundError` is caught before its parent `EntryNotFoundError`: it means that a connection failed, and
    the parent is permanent. Python's own errors come from huggingface_hub parsing a response: ValueError if it is not
    JSON (a page of a captive portal, so worth a retry), the others if it is JSON of another shape.
    """
    import httpx2
    from huggingface_hub import errors as vendor

    try:
        yield
    except PaddockError:
        raise
    except (vendor.OfflineModeIsEnabled, vendor.LocalTokenNotFoundError) as error:
        raise HubRefused(f"the Hub was not contacted for {subject}: {_first_line(error)}") from None
    except vendor.GatedRepoError:
        raise ModelGated(
            f"{subject} is gated on {endpoint}",
            cure="accept its terms on the Hub, then set HF_TOKEN to a token of that account",
        ) from None
    except vendor.RepositoryNotFoundError:
        raise ModelNotFound(
            f"{subject} is not on {endpoint}, or is private",
            cure="check the name, and set HF_TOKEN if it is private",
        ) from None
    except vendor.RevisionNotFoundError:
        raise RevisionNotFound(
            f"{subject} is not on {endpoint}", cure="use an existing branch, tag or commit"
        ) from None
    except vendor.LocalEntryNotFoundError as error:
        raise HubUnavailable(
            f"{endpoint} could not be reached for {subject}: {_first_line(error)}", cure="try again"
        ) from None
    except vendor.EntryNotFoundError:
        raise FileNotInRevision(f"{subject} is not on {endpoint}", cure="list the repository's files") from None
    except vendor.DisabledRepoError:
        raise HubRefused(f"{subject} is disabled on {endpoint}", cure="choose another repository") from None
    except vendor.HfHubHTTPError as error:
        raise _from_status(error, endpoint, subject) from None
    except vendor.HFValidationError as error:
        raise HubRefused(f"huggingface_hub does not accept {subject}: {_first_line(error)}") from None
    except (httpx2.LocalProtocolError, UnicodeEncodeError):  # its message quotes the header, with the token
        raise BadSetting(
            f"the request to {endpoint} for {subject} cannot be sent: a header has invalid characters",
            cure="check that HF_TOKEN is a token",
        ) from None
    except (AttributeError, KeyError, RecursionError, TypeError):
        raise not_a_hub(endpoint, subject, "the JSON of its response has another form") from None
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
        if is_untrusted(error):
            raise HubRefused(
                f"the certificate of {endpoint} is not trusted ({_first_line(error)})", cure=network.untrusted_cure
            ) from None
        raise HubUnavailable(
            f"{endpoint} did not answer for {subject}: {_first_line(error) or type(error).__name__}",
            cure="check the network and HF_ENDPOINT, then try again",
        ) from None


def _from_status(error: HfHubHTTPError, endpoint: str, subject: str) -> PaddockError:
    status = error.response.status_code
    if status in _TRANSIENT_STATUS:
        retry_after = error.response.headers.get("Retry-After", "")
        return HubUnavailable(
            f"{endpoint} answered {status} for {subject}",
            cure="try again later",
            retry_after_s=float(retry_after[:9]) if retry_after.isascii() and retry_after.isdigit() else None,
        )
    if status in {401, 403}:
        return HubRefused(
            f"{endpoint} answered {status} for {subject}", cure="set HF_TOKEN to a token that may read it"
        )
    return HubRefused(f"{endpoint} answered {status} for {subject}", cure="check that HF_ENDPOINT is a Hub")


def not_a_hub(endpoint: str, subject: str, reason: str) -> HubRefused:
    return HubRefused(f"{endpoint} did not respond as a Hub for {subject}: {reason}", cure="check HF_ENDPOINT")


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")[:200]
