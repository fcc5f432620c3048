"""Measure a model on a machine: speed, memory, load over HTTP, roleplay quality, and the fastest parameters."""
