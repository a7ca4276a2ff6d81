"""Everything that reads or shows what a run has written."""
