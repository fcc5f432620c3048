"""Draw the figures of a model: pure functions from figures to pictures, one file for each kind of picture."""
