"""Grammars, schemas and tools are compiled in a second process with limits, before the engine compiles them.

Ours, since llama-server compiles them in the process that answers everybody.

    schema_bounds, alternatives    fixed bounds, found by reading
    request_trial                  one request tried; results are remembered
    trial_engine, trial_model      the process that tries it, and its model of a few megabytes
    suspects                       requests that ended the engine are not tried again
"""
