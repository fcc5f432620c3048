"""Main program of the process that sandboxed subprocesses are forked from, one for each template.

`sandbox_start` starts it without secrets in its environment. It imports what a sandboxed subprocess needs, which takes
most of the time of a start. Then it gives up files, network and privileges, and its subprocesses with it, as the user
that is its second argument where it is root. From then on it only forks: it never reads a template, so that each
subprocess begins in the same state, without anything of another template.

Each message on its socket comes with two descriptors, the subprocess's standard input and output. The answer is the
subprocess's number, with a descriptor of the process (`pidfd_open`). It ends when the socket is closed.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from contextlib import suppress

from paddock.chat import sandbox_process
from paddock.confinement.policy import ConfinementPolicy, confine


def main() -> None:
    requests = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGCHLD, _reap)
    environment = sandbox_process.prepare()
    confine(ConfinementPolicy(user=int(sys.argv[2])))
    gc.collect()
    gc.freeze()  # else the first collection in each subprocess copies every page of this one
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, 1, 2)
        if not message:
            return
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})  # until its descriptor is open
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
            requests.close()
            for descriptor, standard in zip(descriptors, (0, 1), strict=True):
                os.dup2(descriptor, standard)
                os.close(descriptor)
            sandbox_process.run(environment)
            return
        for descriptor in descriptors:
            os.close(descriptor)
        process = os.pidfd_open(pid)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        socket.send_fds(requests, [str(pid).encode()], [process])
        os.close(process)


def _reap(*_: object) -> None:
    """Collect the subprocesses that have ended; their CPU time is then counted as this process's children's."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
