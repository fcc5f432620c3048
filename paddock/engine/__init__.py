"""llama.cpp, each time in a process of its own: `process` starts it, `worker` is it, `oracle` and `facts` ask it."""
