"""Installation by hash: the committed list, and what pip does with it. Packages come from a directory, not an index."""

from __future__ import annotations

import hashlib
import re
import sys
import zipfile
from pathlib import Path
from subprocess import CalledProcessError

import pytest

from infra import locked
from infra.locked import BUILD_TOOLS, CONSTRAINTS, ENGINE, LOCKED, WITHOUT_DEPENDENCIES, entries, needed_to_run, pins

LIST = LOCKED.read_text()


def test_every_pin_has_a_hash_of_its_version_and_the_list_has_no_address() -> None:
    assert locked.without_hashes(CONSTRAINTS.read_text(), LIST) == []
    assert {*BUILD_TOOLS, *WITHOUT_DEPENDENCIES, ENGINE} <= entries(LIST).keys()
    assert "://" not in LIST
    assert "index" not in LIST
    pin, hashed = r"[A-Za-z0-9._-]+==\S+( ; [^\\]+)? \\", r"    --hash=sha256:[0-9a-f]{64}( \\)?"
    assert [line for line in LIST.splitlines() if not re.fullmatch(f"{pin}|{hashed}|# .*", line)] == []


def test_what_paddock_needs_to_run_is_apart_from_what_develops_it() -> None:
    needed = needed_to_run(LIST)
    assert {"prefect", "boto3", "pydantic", ENGINE} <= {*needed}
    assert not {"pytest", "mypy", "cmake", *WITHOUT_DEPENDENCIES} & {*needed}
    assert {"pytest", "cmake"} <= entries(LIST).keys()


def test_lists_are_read_by_name_whatever_its_spelling() -> None:
    text = "# a list\nTyping_Extensions==4.1 ; python_version < '3.12' \\\n    --hash=sha256:aa\nother==2\n"
    assert pins(text) == {"typing-extensions": "4.1", "other": "2"}
    assert [*entries(text)] == ["typing-extensions"]
    assert locked.without_hashes("typing.extensions==4.1\nother==2\nthird==3\n", text) == ["other==2", "third==3"]
    assert locked.without_hashes("typing-extensions==4.2\n", text) == ["typing-extensions==4.2"]


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The wheel of a package in a directory in which pip looks, and nowhere else."""
    path = tmp_path / "wheels" / "paddock_locked_probe-1.0-py3-none-any.whl"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("paddock_locked_probe.py", "")
        about = "paddock_locked_probe-1.0.dist-info"
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: paddock-locked-probe\nVersion: 1.0\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    for name, value in (("NO_INDEX", "1"), ("FIND_LINKS", str(path.parent)), ("CONFIG_FILE", "/dev/null")):
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setattr(locked, "CONSTRAINTS", tmp_path / "constraints.txt")
    monkeypatch.setattr(locked, "LOCKED", tmp_path / "requirements.txt")
    (tmp_path / "constraints.txt").write_text("paddock-locked-probe==1.0\n")
    return path


@pytest.mark.parametrize("listed", ["its own", "another", "none"])
def test_only_a_file_with_a_listed_hash_is_installed_and_a_package_without_one_is_named(
    wheel: Path, tmp_path: Path, listed: str, capfd: pytest.CaptureFixture[str]
) -> None:
    digest = {"its own": hashlib.sha256(wheel.read_bytes()).hexdigest(), "another": "0" * 64, "none": ""}[listed]
    entry = f"paddock-locked-probe==1.0 \\\n    --hash=sha256:{digest}\n" if digest else ""
    (tmp_path / "requirements.txt").write_text(entry)
    options = ["--target", str(tmp_path / "out"), "--no-compile"]
    if listed == "another":
        with pytest.raises(CalledProcessError):
            locked.install(Path(sys.executable), options=options)
        assert "HASHES" in capfd.readouterr().err
    else:
        locked.install(Path(sys.executable), options=options)
        assert ("no hashes for paddock-locked-probe==1.0" in capfd.readouterr().out) == (listed == "none")
    assert (tmp_path / "out" / "paddock_locked_probe.py").exists() == (listed != "another")
