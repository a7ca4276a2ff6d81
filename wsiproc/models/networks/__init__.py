"""Network architectures and their fast computation."""
