"""What is wanted, what is good enough, what is known: the phases of a model's life, as plain functions.

The flows run them as retryable tasks; the command line and the public functions call them directly.
"""
