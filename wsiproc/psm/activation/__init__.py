"""The activation network: how it is built and trained, and what it responds to."""
