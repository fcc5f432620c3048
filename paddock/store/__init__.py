"""Where bytes live: the volume and S3, two stores with one protocol."""
