"""An error as some libraries have them; in a file of its own, so that workers import it only when it is raised."""


class OddError(Exception):
    """It cannot be made again from what it hands to its parent."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
