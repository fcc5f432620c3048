"""A model behind an OpenAI-compatible address, under supervision.

`offer` says what is served, `engines` how each of the two servers is started, `process` is one of them running,
`supervisor` keeps it running; `front` is what clients see, with `requests`, `places` and `relay` behind it; `service`
puts them together. `launch`, `python_server` and its `door` are the engine's own process.
"""
