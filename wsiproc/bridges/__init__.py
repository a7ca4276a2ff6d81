"""Bridges to other systems; each is imported only when asked for and needs an extra of its own."""
