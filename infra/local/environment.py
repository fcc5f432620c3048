"""Build the environment of programs that use the local stack: ours, without the user's own accounts and servers."""

from __future__ import annotations

import os

# The user's own accounts and servers. Their token must never be sent to the local Hub.
UNSET = (
    "AWS_PROFILE",
    "AWS_SESSION_TOKEN",
    "AWS_ENDPOINT_URL_S3",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "HF_HUB_OFFLINE",
    "PREFECT_API_AUTH_STRING",
    "PREFECT_API_KEY",
    "PREFECT_PROFILE",
)
QUIET = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}


def inherited() -> dict[str, str]:
    """Our environment without Prefect's settings and `UNSET`, and with no proxy for the loopback address."""
    kept = {name: value for name, value in os.environ.items() if name not in UNSET and not name.startswith("PREFECT_")}
    for name in ("no_proxy", "NO_PROXY"):
        kept[name] = ",".join(filter(None, [kept.get(name), "127.0.0.1", "localhost"]))
    return {**kept, **QUIET}
