"""A local Hugging Face Hub for tests and demonstrations: repositories made from files, served in the real wire format.

    hub = LocalHub(folder)
    commit = hub.repository("org/name").commit({"model.Q8_0.gguf": Path("…"), "config.json": b"{}"})
    with serve_hub(hub) as service:
        service.inject("flip", "org/name/*.gguf", offset=1000)  # the next download gets one wrong bit
        …                                                       # HF_ENDPOINT=service.address
        service.stats().bytes_sent

Its test of correctness is that third-party clients work with it; nothing in it is made for Paddock's own client.

    git            ids of blobs, trees and commits
    repositories   what is stored: commits, branches, tags, tokens
    tree           rows of the tree listings
    api            the Hub's API
    response       responses, and how they are sent
    faults         faults that a test injects
    counters       requests and bytes that were served
    service        the two HTTP servers

It is not fast enough for measurements of speed, and it listens on the loopback address only.
"""

from infra.local.hub.counters import Stats
from infra.local.hub.faults import Fault
from infra.local.hub.repositories import Commit, LocalHub, Repository, RepositoryEntry
from infra.local.hub.service import HubService, serve_hub

__all__ = ["Commit", "Fault", "HubService", "LocalHub", "Repository", "RepositoryEntry", "Stats", "serve_hub"]
