"""The clients of a run, made from the environment of the process that runs it. Parameters never carry a secret."""

from __future__ import annotations

from paddock.lifecycle.parts import Parts, connect


def parts() -> Parts:
    """Make the clients anew: that costs nothing, and a test or a worker may have changed the environment."""
    return connect()
