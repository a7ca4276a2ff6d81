"""``wsiproc view``: finished slides in a browser, from this machine and no farther."""
