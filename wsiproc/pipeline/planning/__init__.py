"""What is decided about a slide before anything expensive starts."""
