"""Value types of the library: names, manifests, findings, quantizations, hardware."""
