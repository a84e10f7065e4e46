"""Output folders and files: all of a run, or nothing."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gatewise.errors import InvalidInput


@contextlib.contextmanager
def all_or_nothing(folder: str | Path) -> Iterator[Path]:
    """A scratch folder beside the files to be; when the block ends well they are moved into `folder`, made where it is
    missing. When it raises, `folder` keeps what it had.

    Raises:
        InvalidInput: nothing can be written there.
    """
    target = Path(folder)
    missing = [place for place in (target, *target.parents) if not place.exists()]
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target) as made:
            scratch = Path(made)
            yield scratch
            for path in sorted(scratch.iterdir()):
                os.replace(path, target / path.name)
    except OSError as error:
        raise InvalidInput(f"Nothing can be written to {folder}: {error.strerror or error}.") from error
    finally:
        for place in missing:
            with contextlib.suppress(OSError):  # it is not empty: all went well
                place.rmdir()


def replace_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file that is never seen half."""
    scratch = path.with_suffix(".part")
    scratch.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(scratch, path)


def require_writable(folder: str | Path) -> None:
    """Raise InvalidInput where `all_or_nothing` is bound to fail: for work too long to learn it at the end. Writes
    nothing.
    """
    target = Path(folder).absolute()
    found = next(path for path in (target, *target.parents) if path.exists())
    if not found.is_dir():
        raise InvalidInput(f"Nothing can be written to {folder}: {found} is a file.")
    if not os.access(found, os.W_OK | os.X_OK):
        raise InvalidInput(f"Nothing can be written to {folder}: {found} is write-protected.")
