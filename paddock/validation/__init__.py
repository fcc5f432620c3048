"""Whether a model is sound and fits the engine: its structure, configuration and compatibility, joined into one
verdict.
"""
