"""The stack on one machine: a Hub, S3, Prefect on PostgreSQL and its workers, as plain processes on loopback."""
