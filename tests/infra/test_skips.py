"""The hooks of tests/support/skips.py, in a separate run of pytest."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from infra.local.state import CHECKOUT

SKIPS = {
    "in_a_test": "def test_it(): pytest.skip('no part: install in_a_test')",
    "in_a_fixture": "@pytest.fixture\ndef part(): pytest.skip('no part: install in_a_fixture')\ndef test_it(part): ...",
    "by_a_mark": "@pytest.mark.skipif(True, reason='no part: install by_a_mark')\ndef test_it(): pass",
    "by_an_import": "def test_it(): pytest.importorskip('no_part', reason='no part: install by_an_import')",
    "of_a_module": "pytest.skip('no part: install of_a_module', allow_module_level=True)",
    "of_a_module_by_an_import": "pytest.importorskip('no_part', reason='no part: install of_a_module_by_an_import')",
}


def run(directory: Path, **files: str) -> tuple[int, str]:
    """Run pytest on files of these names, with the hooks; return its exit status and output."""
    for name, code in files.items():
        (directory / f"test_{name}.py").write_text(f"import pytest\n{code}\n")
    options = ["-p", "tests.support.skips", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", str(directory)]
    command = [sys.executable, "-m", "pytest", "-q", "-rA", *options, "--continue-on-collection-errors", str(directory)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The output of one run with every kind of skip."""
    status, output = run(tmp_path_factory.mktemp("skips"), **SKIPS)
    assert status != 0
    return output


@pytest.mark.parametrize("name", SKIPS)
def test_a_skip_fails_and_prints_its_reason(refused: str, name: str) -> None:
    assert re.search(rf"^(FAILED|ERROR) .*/test_{name}\.py\b", refused, re.MULTILINE)
    assert re.search(rf"this test may not be skipped here\. no part: install {name}\b", refused)


def test_nothing_counts_as_skipped(refused: str) -> None:
    assert "skipped" not in refused.splitlines()[-1]


def test_an_allowed_skip_and_an_expected_failure_do_not_fail(tmp_path: Path) -> None:
    code = """
def test_skipped(): pytest.skip('root may write everywhere; run as a user')
@pytest.mark.xfail(strict=True)
def test_expected(): assert False
"""
    status, output = run(tmp_path, allowed=code)
    assert status == 0
    assert "1 skipped, 1 xfailed" in output
