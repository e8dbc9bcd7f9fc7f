"""Sources that are found by the suffix of a file, or by what is in a folder."""

KINDS = "a file or a folder of data"
"""What there is, for people."""


def reader_of(source: str) -> type | None:
    """The class that reads a file or folder of data, taking its path first; None: there is none."""
    return None
