"""The hooks of tests/support/skips.py, in a separate run of pytest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from infra.local.state import CHECKOUT

SKIPS = {
    "in a test": "def test_it(): pytest.skip('no part: install part')",
    "in a fixture": "@pytest.fixture\ndef part(): pytest.skip('no part: install part')\ndef test_it(part): pass",
    "by a mark": "@pytest.mark.skipif(True, reason='no part: install part')\ndef test_it(): pass",
    "by an import": "def test_it(): pytest.importorskip('no_part', reason='no part: install part')",
    "of a module": "pytest.skip('no part: install part', allow_module_level=True)",
    "of a module by an import": "pytest.importorskip('no_part', reason='no part: install part')",
}


def run(directory: Path, code: str) -> tuple[int, str]:
    (directory / "test_one.py").write_text(f"import pytest\n{code}\n")
    options = ["-p", "tests.support.skips", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", str(directory)]
    command = [sys.executable, "-m", "pytest", "-q", "-rA", *options, str(directory)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout


@pytest.mark.parametrize("code", SKIPS.values(), ids=SKIPS)
def test_a_skip_fails_and_prints_its_reason(tmp_path: Path, code: str) -> None:
    status, output = run(tmp_path, code)
    assert status != 0
    assert "this test may not be skipped here. no part: install part" in output
    assert "skipped" not in output.splitlines()[-1]


def test_an_allowed_skip_and_an_expected_failure_do_not_fail(tmp_path: Path) -> None:
    code = """
def test_skipped(): pytest.skip('root may write everywhere; run as a user')
@pytest.mark.xfail(strict=True)
def test_expected(): assert False
"""
    status, output = run(tmp_path, code)
    assert status == 0
    assert "1 skipped, 1 xfailed" in output
