"""Deployable Prefect flows, one use case in each file."""
