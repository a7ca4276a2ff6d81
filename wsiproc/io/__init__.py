"""Reading and writing: no other package knows file formats."""
