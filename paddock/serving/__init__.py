"""Supervised server: a model behind an OpenAI-compatible HTTP API.

    spec         what is served: the model's files, chat template and planned parameters
    engine       llama-server, in a process of its own, kept running
    requests     validation of requests
    trial        grammars and schemas are compiled by another process first
    http         connections, bodies, and the proxy to the engine
    admission    the queue in front of the engine: llama-server has none with a bound
    switch       from one served revision to the next
    refusal      errors in OpenAI's form
    metrics      Prometheus metrics of the queue and the supervision, which llama-server does not know
    usage        requests and tokens, for the volume, which llama-server does not know
    threads      blocking calls, in threads that hold up nothing
    service      puts all of these together, and shuts them down

Each package says why it is ours, beside what llama-server does itself.
"""
