"""One retryable step each: the policy of its retries, the clients that it works with, and the artifact that it
records."""
