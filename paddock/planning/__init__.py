"""May it run there, and how: the choice of the quantization, before a weight is fetched."""
