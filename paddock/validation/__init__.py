"""Check models: integrity, structure, configuration, compatibility with the engine, and expectations on tables."""
