"""Networks, and what computes them."""
