"""Switching a running server from one revision to another, without dropping an answer.

Ours, since llama-server serves the file that it was started with.

    revision           a served revision: its files, its supervised engine, and the client to it
    revision_switch    from one revision to the next: beside it, or in its place
    follow             looks at what is promoted
    watch              compares a new revision with the one before, and goes back to it
    guard              what `watch` asks: a judge of the answers, and the rollback
"""
