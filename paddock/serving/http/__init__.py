"""The HTTP side of the server: connections, bodies, and the proxy to the engine.

Ours, since llama-server has no deadline for slow clients and no bound on connections, and answers errors that are
neither in OpenAI's form nor free of the host's paths.

    binding                      the listening address
    connections                  deadlines for connections
    connection_table             bounds on connections, in all and by address
    strict_http, chunk_framing   strict parsing of requests
    access, allowed_hosts        hosts and origins that are answered
    content_type, bodies         content types of bodies, and bounds on them
    api                          the paths
    proxy                        the way to the engine and back
    cut_text                     the end of an answer that was cut inside a character
    error_response               responses for refused requests
    engine_errors                errors of the engine in OpenAI's form
"""
