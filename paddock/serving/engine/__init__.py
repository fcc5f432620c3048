"""llama-server as the engine: found, started in a process of its own, checked, and kept running.

Ours, since llama-server starts whatever it is given and ends with its first crash: a canary before the first request,
memory against the plan, restarts, and a process without secrets.

    llama_server, canary     the program, its arguments, and the check of a loaded model
    main                     entry point of the process: hardens itself, then becomes llama-server
    process, supervisor      one run of it; keeping one running
"""
