"""Bytes from there to here: ranges fetched in parallel, verified while they are written, resumed after death."""
