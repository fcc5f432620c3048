"""The phases of a model's life, as plain functions.

The flows run their steps as Prefect tasks; the command line runs the same steps in its own process (`steps`).
"""
