"""Download files in parallel ranges, verify them while they are written, and resume after a crash."""
