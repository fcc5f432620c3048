"""S3 as a remote store: the only package that imports boto3.

`objects` implements the object service's client, `upload` sends a blob as a multipart upload, `connection` makes
boto3's client, and `errors` maps the errors of botocore to those of Paddock.
"""

from paddock.settings import Settings
from paddock.store.protocol import RemoteStore
from paddock.store.remote import ObjectStore
from paddock.store.s3.connection import S3Options
from paddock.store.s3.objects import S3Objects

__all__ = ["S3Objects", "S3Options", "open_store"]


def open_store(uri: str, settings: Settings) -> RemoteStore:
    """The store at `s3://bucket[/prefix]`. Makes no request; raises BadSetting."""
    return ObjectStore(S3Objects(uri, options=S3Options.of(settings)))
