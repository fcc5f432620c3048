"""S3 as a store, and the only room that speaks boto3.

`store` is the Store itself, `errors` the one place where an error of botocore becomes one of ours, `connection` makes
the client, `objects` reads and writes small objects on a condition, `upload` sends a blob, and `turns` says which
worker of a fleet asks the Hub.
"""

from paddock.store.s3.connection import S3Options
from paddock.store.s3.errors import store_error
from paddock.store.s3.store import S3Store

__all__ = ["S3Options", "S3Store", "store_error"]
