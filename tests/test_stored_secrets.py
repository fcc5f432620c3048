"""Secrets that are stored elsewhere than in the environment are used where it has none."""

from __future__ import annotations

import traceback

import pytest

from paddock import settings
from paddock.errors import BadSetting
from paddock.settings import SECRETS, AwsKeys, Secret, StoredSecret

CANARY = "hf_canaryCANARYcanary"
AWS_ID, AWS_SECRET, AWS_TOKEN = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"


def stored(**values: str) -> dict[str, StoredSecret]:
    return {variable: StoredSecret(f"the safe of {variable}", value) for variable, value in values.items()}


@pytest.fixture(autouse=True)
def _no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (*SECRETS, "HUGGING_FACE_HUB_TOKEN", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.parametrize(
    ("environment", "missing"),
    [
        ({}, set(SECRETS)),
        ({"HF_TOKEN": "a"}, set(SECRETS) - {"HF_TOKEN"}),
        ({"HUGGING_FACE_HUB_TOKEN": "a"}, set(SECRETS) - {"HF_TOKEN"}),
        ({"HF_TOKEN": " "}, set(SECRETS)),
        ({AWS_ID: "a"}, set(SECRETS) - {AWS_ID}),
        ({AWS_SECRET: "a"}, {"HF_TOKEN", "PADDOCK_API_KEY"}),
        ({"AWS_PROFILE": "a"}, {"HF_TOKEN", "PADDOCK_API_KEY"}),
        ({"AWS_WEB_IDENTITY_TOKEN_FILE": "a"}, {"HF_TOKEN", "PADDOCK_API_KEY"}),
        ({"HF_TOKEN": "a", "PADDOCK_API_KEY": "a", AWS_ID: "a", AWS_SECRET: "a"}, set()),
    ],
    ids=lambda value: " ".join(sorted(value)),
)
def test_secrets_are_missing_that_the_environment_does_not_set(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], missing: set[str]
) -> None:
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    assert settings.missing_secrets() == missing


def test_stored_secrets_are_used_where_the_environment_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = stored(HF_TOKEN="token\n", PADDOCK_API_KEY="key", **{AWS_ID: "id", AWS_SECRET: CANARY, AWS_TOKEN: "s"})
    loaded = settings.load(everything)
    assert (loaded.hub_token, loaded.api_key) == (Secret("token"), Secret("key"))
    assert loaded.aws_keys == AwsKeys("id", CANARY, "s")
    assert CANARY not in f"{loaded!r}{everything!r}"

    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", "own")
    monkeypatch.setenv(AWS_ID, "own id")
    loaded = settings.load(everything)
    assert loaded.hub_token == Secret("own")
    assert loaded.aws_keys == AwsKeys("own id", CANARY, "s")

    monkeypatch.setenv(AWS_SECRET, "own key")  # which boto3 reads itself, and which has no session token
    assert settings.load(everything).aws_keys is None


@pytest.mark.parametrize(
    ("values", "message", "place"),
    [
        ({"HF_TOKEN": f"{CANARY} two"}, "the setting HF_TOKEN is not usable: ", "the safe of HF_TOKEN"),
        ({AWS_SECRET: CANARY}, f"the safe of {AWS_SECRET} has a key without its id", f"set {AWS_ID}"),
    ],
    ids=["not a token", "a key without its id"],
)
def test_a_stored_secret_that_cannot_be_used_is_named_by_its_place(
    values: dict[str, str], message: str, place: str
) -> None:
    with pytest.raises(BadSetting) as caught:
        settings.load(stored(**values))
    assert message in caught.value.message
    assert place in caught.value.cure
    assert CANARY not in "".join([repr(caught.value), *traceback.format_exception(caught.value)])
