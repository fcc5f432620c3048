"""A Hugging Face Hub on this machine, for tests and demonstrations: repositories made from files, served in the real
wire format.

    hub = LocalHub(folder)
    commit = hub.repository("org/name").commit({"model.Q8_0.gguf": Path("…"), "config.json": b"{}"})
    with serve_hub(hub) as service:
        service.order("flip", "org/name/*.gguf", offset=1000)  # the next download gets one wrong bit
        …                                                      # HF_ENDPOINT=service.address
        service.stats().bytes_sent

It is right when clients that others wrote work against it; nothing in it is made for ours. `git` has the ids,
`repositories` what is kept, `api` the Hub's answers and `tree` its listings, `answer` how they are sent, `faults`
what goes wrong on order, `ledger` the counts, `service` the two servers. It is not fast enough for measurements of
speed, and it never listens on anything but the loopback address.
"""

from infra.local.hub.faults import Fault
from infra.local.hub.ledger import Stats
from infra.local.hub.repositories import Commit, LocalHub, Repository, RepositoryEntry
from infra.local.hub.service import HubService, serve_hub

__all__ = ["Commit", "Fault", "HubService", "LocalHub", "Repository", "RepositoryEntry", "Stats", "serve_hub"]
