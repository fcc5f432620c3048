"""Supervised server: a model behind an OpenAI-compatible HTTP API.

    spec                          what is served: the model's files, chat template and planned parameters
    llama_server, canary          how llama-server is found, started and checked
    process, supervisor           one engine process; keeping one running
    revision                      a served revision: its files, its supervised engine, and the client to it
    switch, follow                switching between revisions; following the promoted one
    api, requests                 the HTTP API; validation of its requests
    schema_bounds, alternatives   fixed bounds of what a request asks the engine to compile
    trial                         the same, compiled by another process first
    trial_engine, trial_model     the process that tries it; its model of a few megabytes
    suspects                      requests that ended the engine are not tried again
    admission, proxy, metrics     the queue, the proxy to the engine, Prometheus metrics
    cut_text                      the end of an answer that was cut inside a character
    usage                         counting requests and tokens
    threads                       blocking calls, in threads that hold up nothing
    binding                       the listening address
    service                       puts all of these together

`engine_main` runs in the engine's own process.
"""
