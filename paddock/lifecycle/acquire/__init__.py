"""Bring models onto the volume: resolve, plan, fetch, publish, pull, restore; and cache them in the remote store."""
