"""``python -m wsiproc``: the command, where its script is not on the PATH."""

from wsiproc.cli.main import main

if __name__ == "__main__":
    main()
