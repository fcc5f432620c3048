"""Promote snapshots, roll back, and remove old ones."""
