"""The errors are the tree that their module draws, and come through a pickle whole."""

from __future__ import annotations

import copy
import inspect
import pickle
import re

import pytest

from paddock import errors
from paddock.errors import PaddockError, TransientError

CLASSES = {
    name: value
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, PaddockError) and not name.startswith("_")
}
LEAVES = [one for one in CLASSES.values() if not any(one in other.__bases__ for other in CLASSES.values())]

ROWS_OF_THE_SPECIFICATION = {
    "download: network time-out (retried)": ("HubUnavailable", "TransferInterrupted", "StoreUnavailable"),
    "download: partial download (resumed)": ("TransferInterrupted",),
    "download: corruption (detected, only the bad part fetched again)": ("CorruptFile",),
    "download: not enough disk (before the first byte)": ("NotEnoughDisk",),
    "loading: format mismatch": ("NotGguf", "MalformedGguf"),
    "loading: missing file": ("NoSuchFile", "NoGguf", "MissingShard"),
    "loading: no permission": ("NoPermission",),
    "loading: memory estimate over what there is": ("DoesNotFit",),
    "runtime: incompatible model": ("IncompatibleModel",),
    "runtime: memory overflow": ("EngineOutOfMemory",),
    "runtime: conflicting configuration": ("ConflictingConfiguration", "BadSetting"),
    "runtime: an engine that crashes": ("EngineCrashed",),
}
BUILT_IN = {
    "UnsafeName": ValueError,
    "BadSetting": ValueError,
    "NoSuchFile": FileNotFoundError,
    "NoGguf": FileNotFoundError,
    "MissingShard": FileNotFoundError,
    "NoPermission": PermissionError,
}
each_class = pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES)


def drawn() -> dict[str, tuple[str | None, str]]:
    """The docstring's tree: each class with its parent and what is said beside it."""
    tree: dict[str, tuple[str | None, str]] = {}
    above: list[str] = []
    for line in inspect.getdoc(errors).splitlines():  # type: ignore[union-attr]  # the docstring is the subject
        match = re.fullmatch(r"(?P<branch>[ │├└─]*)(?P<name>[A-Z]\w+)(?:  +(?P<text>\S.*))?", line.removeprefix("    "))
        if match is None or not line.startswith("    "):
            continue
        depth = len(match["branch"]) // 4
        tree[match["name"]] = (above[depth - 1] if depth else None, match["text"] or "")
        above[depth:] = [match["name"]]
    return tree


def parent_of(kind: type) -> str | None:
    return next((base.__name__ for base in kind.__mro__[1:] if base in CLASSES.values()), None)


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    assert {name: parent for name, (parent, _) in drawn().items()} == {
        name: parent_of(kind) for name, kind in CLASSES.items()
    }


def test_the_docstring_names_the_exit_status_and_the_built_in_class_that_a_class_has() -> None:
    for name, (_, text) in drawn().items():
        status = re.search(r"exit status (\d)", text)
        if status:
            assert CLASSES[name].exit_status == int(status[1])
        also = re.search(r"\(also a (\w+)\)", text)
        assert (also[1] if also else None) == (BUILT_IN[name].__name__ if name in BUILT_IN else None), name


@pytest.mark.parametrize(("name", "built_in"), BUILT_IN.items(), ids=BUILT_IN)
def test_a_caller_that_knows_only_pythons_own_errors_can_catch_it(name: str, built_in: type[Exception]) -> None:
    with pytest.raises(built_in, match=r"^what: do this$"):
        raise CLASSES[name]("what", cure="do this")


@pytest.mark.parametrize("kind", LEAVES, ids=lambda kind: kind.__name__)
def test_every_error_that_is_raised_is_either_transient_or_permanent(kind: type[PaddockError]) -> None:
    assert issubclass(kind, TransientError) != issubclass(kind, errors.PermanentError)


@each_class
def test_an_error_survives_pickling_and_copying_with_all_that_it_says(kind: type[PaddockError]) -> None:
    extra: dict[str, object] = {"retry_after_s": 7.5} if issubclass(kind, TransientError) else {}
    if "rule" in inspect.signature(kind).parameters:
        extra = {"rule": "gguf.container.magic", "where": "byte 24"}
    error = kind("what it was", cure="what to do", **extra)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        for twin in (pickle.loads(pickle.dumps(error, protocol)), copy.deepcopy(error)):
            assert type(twin) is kind
            assert (str(twin), twin.args, vars(twin)) == (str(error), error.args, vars(error))
            assert vars(twin) == {"message": "what it was", "cure": "what to do", **extra}


@each_class
def test_the_sentence_is_the_message_and_the_cure(kind: type[PaddockError]) -> None:
    assert str(kind("the file is short", cure="fetch it again")) == "the file is short: fetch it again"
    assert str(kind("the file is short")) == "the file is short"


@each_class
def test_the_code_is_the_kebab_case_name_and_no_other_class_has_it(kind: type[PaddockError]) -> None:
    code = kind("x").code
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", code)
    assert "".join(word.capitalize() for word in code.split("-")) == kind.__name__
    assert [other for other in CLASSES.values() if other("x").code == code] == [kind]


@pytest.mark.parametrize(
    ("name", "status"),
    [("UnsafeName", 3), ("ModelGated", 1), ("HubUnavailable", 1), ("CorruptFile", 2), ("GateNotPassed", 2)],
)
def test_the_exit_status_is_that_of_the_branch(name: str, status: int) -> None:
    assert CLASSES[name].exit_status == status


@pytest.mark.parametrize("names", ROWS_OF_THE_SPECIFICATION.values(), ids=ROWS_OF_THE_SPECIFICATION)
def test_each_error_of_the_specification_has_a_class(names: tuple[str, ...]) -> None:
    for name in names:
        assert CLASSES[name] in LEAVES


def test_what_is_retried_is_what_the_specification_retries() -> None:
    assert {one.__name__ for one in LEAVES if issubclass(one, TransientError)} == {
        "HubUnavailable",
        "TransferInterrupted",
        "OrchestratorUnavailable",
        "ServerUnavailable",
        "StoreUnavailable",
        "BlobMissing",
    }
