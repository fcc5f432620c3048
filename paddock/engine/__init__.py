"""llama.cpp, always run in a child process.

`process` starts the child and `worker` is its entry point; `jobs` lists what the child can do, with `bindings`,
`generation`, `timing` and `repacking` behind it. `oracle` (memory estimates) and `facts` (version, known
architectures) are for callers in the parent process.
"""
