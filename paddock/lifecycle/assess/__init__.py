"""Check models: inspect a file, preflight it for a machine, audit it, and validate a stored snapshot."""
