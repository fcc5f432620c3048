"""Fields of the requests that clients send: types, bounds, and what each is for the engine."""
