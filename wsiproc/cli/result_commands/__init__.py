"""Commands on finished results."""
