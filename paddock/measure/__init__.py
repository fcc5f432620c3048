"""What a model does on a machine: how fast it is, and what it takes."""
