"""Supervised server: a model behind an OpenAI-compatible HTTP API.

    spec                          what is served: the model's files, chat template and planned parameters
    llama_server, canary          how llama-server is found, started and checked
    process, supervisor           one engine process; keeping one running
    api, requests                 the HTTP API; validation of its requests
    admission, proxy, metrics     the queue, the proxy to the engine, Prometheus metrics
    cut_text                      the end of an answer that was cut inside a character
    binding                       the listening address
    service                       puts all of these together

`engine_main` runs in the engine's own process.
"""
