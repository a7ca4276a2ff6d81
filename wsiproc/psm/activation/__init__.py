"""The activation network: architecture, training, and activation maps."""
