"""The watch of a server after a promotion: what is worse, and the rollback.

    judge    compares the answers of the promoted revision with those of the one before: pure
    guard    finds the promotion in the history, and rolls it back

The server collects the answers, and does what is decided (`paddock.serving.switch.watch`).
"""

from paddock.lifecycle.watch.guard import HistoryGuard

__all__ = ["HistoryGuard"]
