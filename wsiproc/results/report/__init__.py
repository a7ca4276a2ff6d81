"""The page about a slide."""
