"""Parse GGUF files, and check their header, tokenizer and weights."""
