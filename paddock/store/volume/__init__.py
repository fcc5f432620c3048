"""The volume: a store on a mounted directory, `/models` by default, that all workers share.

`Volume` composes one small class for each concept:

| module | owns |
|---|---|
| `layout` | the paths below the root, and how directories are made |
| `blobs` | verified bytes, named by their sha256 |
| `file_states` | in which state a blob's file was when its bytes were last compared with their digest |
| `snapshots` | published snapshots: links to blobs, and a manifest |
| `published` | a copy of each published manifest, with which the manifest is compared |
| `links` | the symbolic links in the root that show what is promoted |
| `promotions` | promote, roll back, and the history of both |
| `refs` | the commits of branches and tags when the Hub last answered, and the Hub's names of models |
| `remote_updates` | the promotions that the remote store does not have yet |
| `pins`, `serve_leases`, `usage` | snapshots that are kept, that are served now, and how much they were used |
| `verifications` | when each blob was last compared with its digest, here and in remote stores |
| `recording` | what reading leaves behind, where the volume can be written |
| `documents` | reports, notes, tuning records, Data Docs |
| `removal` | remove snapshots, collect orphaned blobs, sweep what dead writers left |
| `disk`, `space` | free space, and what is stored beside the blobs |
| `identity` | the name by which a remote store knows what the volume has |
"""

from paddock.store.usage import Usage
from paddock.store.volume.blobs import ORPHAN_AGE_S, RECENT_S, BlobStatus
from paddock.store.volume.promotions import Promotions
from paddock.store.volume.stored_snapshot import StoredSnapshot
from paddock.store.volume.volume import Volume

__all__ = [
    "ORPHAN_AGE_S",
    "RECENT_S",
    "BlobStatus",
    "Promotions",
    "StoredSnapshot",
    "Usage",
    "Volume",
]
