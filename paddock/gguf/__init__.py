"""The GGUF format: read, and judged by its header alone."""
