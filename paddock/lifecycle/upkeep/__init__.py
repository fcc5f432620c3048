"""Keep the volume sound: verify what is stored, and repair it."""
