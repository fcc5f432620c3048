"""Stores of models: the volume, and remote stores such as S3, with one protocol.

`protocol` defines what a store is, `volume` and `remote` implement it, `s3` is one object service for `remote`,
`copying` sends a snapshot from the volume to a remote store, and `repair` replaces damaged blobs.
"""
