"""Eviction: choose snapshots of the volume that nothing needs, and remove them."""
