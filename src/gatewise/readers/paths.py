"""Paths that the user names."""

from pathlib import Path

from gatewise.errors import InvalidInput


def require_file(path: str | Path, what: str) -> Path:
    """`path` as a Path, when there is a file to be read.

    Args:
        path: what the user wrote; relative to the current folder.
        what: the role of the file, for the sentence: "weights file".

    Raises:
        InvalidInput: nothing there, or a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise InvalidInput(f"The {what} {path} is a folder; name the file itself.")
    if not path.is_file():
        raise InvalidInput(f"The {what} {path} does not exist; check the path (the current folder is {Path.cwd()}).")
    return path
