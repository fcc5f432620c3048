"""Validation of requests: each field is honoured or refused by name, before native code sees it.

Ours, since llama-server ignores fields that it does not know, takes some that are its own, and can be ended by others.

    json_body       JSON with bounds on depth, keys and numbers
    fields          pydantic models of the requests
    parse           a body becomes a request to the engine
    tool_format     requests with tools, where the engine cannot recognize a call
"""
