"""The process that renders a template has no privileges, files, network or other processes in reach."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from paddock.chat import sandbox_start
from paddock.confinement import UNPRIVILEGED_USER


def test_a_process_that_renders_a_template_is_confined() -> None:
    process = sandbox_start.start()
    try:
        assert process.stdout.readline() == b"{}\n"  # it has set its limits, and waits for a template
        text = Path(f"/proc/{process.pid}/status").read_text()
        status = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
        assert [int(status[name], 16) for name in ("CapPrm", "CapEff", "CapAmb")] == [0, 0, 0]
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        if os.geteuid() == 0:
            assert status["Uid"].split() == [str(UNPRIVILEGED_USER)] * 4
            assert int(status["CapBnd"], 16) == 0
    finally:
        process.close()


def test_templates_are_rendered_in_the_process_that_was_prepared() -> None:
    sandbox_start.stop()
    others = set(psutil.Process().children())
    sandbox_start.prepare()
    (prepared,) = set(psutil.Process().children()) - others
    sandbox_start.prepare()
    process = sandbox_start.start()
    try:
        assert psutil.Process(process.pid).parent() == prepared
        assert set(psutil.Process().children()) - others == {prepared}
    finally:
        process.close()
