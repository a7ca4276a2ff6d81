"""Commands of ``wsiproc`` with a part of the package of their own, a file each; ``cli`` gives them their names."""
