"""Run the engine on a stored snapshot: benchmark, tune, serve."""
