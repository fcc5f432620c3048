"""Remote stores: what is the same for every object service.

`objects` is the protocol of an object service's client, `store` implements the remote store with it, `refs` is the
format of what is promoted, `usage` is what each worker used, and `download_lease` lets one worker of a fleet fetch a
blob from the Hub.

Another object service is one package that implements `Objects`, and one line in `paddock.lifecycle.clients`.
"""

from paddock.store.remote.objects import Objects, ObjectStat, StoredObject
from paddock.store.remote.store import ObjectStore

__all__ = ["ObjectStat", "ObjectStore", "Objects", "StoredObject"]
