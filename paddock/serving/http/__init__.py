"""The HTTP side of the server: connections, bodies, and the proxy to the engine.

Ours, since llama-server has no deadline for slow clients and no bound on connections, and answers errors that are
neither in OpenAI's form nor free of the host's paths.

    binding                      the listening address
    connections, strict_http     bounds on connections, and strict parsing of requests
    bodies                       bounds on bodies
    api                          the paths
    proxy                        the way to the engine and back
    cut_text                     the end of an answer that was cut inside a character
    engine_errors                errors of the engine in OpenAI's form
"""
