"""Small tables from `.csv` files, with or without a header."""

import csv
from dataclasses import dataclass
from pathlib import Path

from gatewise.errors import InvalidInput
from gatewise.readers.paths import require_file


@dataclass(frozen=True)
class Table:
    """The cells of a `.csv` file, stripped of blanks, row by row; `header` is None where the file has none."""

    path: Path
    header: tuple[str, ...] | None
    rows: tuple[tuple[str, ...], ...]

    def column(self, position: int) -> list[str]:
        """The cells of a column.

        Raises:
            InvalidInput: a row is too short.
        """
        short = [number for number, row in enumerate(self.rows, start=1) if len(row) <= position]
        if short:
            raise InvalidInput(f"Row {short[0]} of {self.path} has no column {position + 1}; complete it.")
        return [row[position] for row in self.rows]

    def place(self, name: str) -> int:
        """The position of the column called `name`.

        Raises:
            InvalidInput: there is none.
        """
        if self.header is None or name not in self.header:
            there = "no header" if self.header is None else f"the columns {', '.join(self.header)}"
            raise InvalidInput(f"{self.path} has no column {name!r} (it has {there}); add it.")
        return self.header.index(name)

    def numbers(self, position: int) -> list[float]:
        """The cells of a column as numbers; an empty one is NaN.

        Raises:
            InvalidInput: a row is too short, or holds something else.
        """
        numbers = []
        for number, cell in enumerate(self.column(position), start=1):
            try:
                numbers.append(float(cell or "nan"))
            except ValueError:
                raise InvalidInput(
                    f"Row {number} of {self.path} has {cell!r} in column {position + 1}; it must be a number."
                ) from None
        return numbers

    def integers(self, position: int) -> list[int]:
        """The cells of a column as whole numbers.

        Raises:
            InvalidInput: a row is too short, or holds something else.
        """
        cells = self.column(position)
        for number, cell in enumerate(cells, start=1):
            if not _is_integer(cell):
                raise InvalidInput(
                    f"Row {number} of {self.path} has {cell!r} in column {position + 1}; it must be a whole number."
                )
        return [int(cell) for cell in cells]


def read_table(path: str | Path, what: str, integers_in: int) -> Table:
    """The table in a `.csv` file (comma separated, UTF-8); empty lines are skipped.

    Args:
        path: the file.
        what: its role, for the sentence.
        integers_in: a column of whole numbers: the first row is a header when its cell there is none.

    Raises:
        InvalidInput: a missing file, one that is not text, or one without rows.
    """
    path = require_file(path, what)
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            rows = [tuple(cell.strip() for cell in row) for row in csv.reader(lines) if any(row)]
    except (UnicodeDecodeError, csv.Error, OSError) as problem:
        raise InvalidInput(f"The {what} {path} is not a .csv text file ({problem}); save it as one.") from problem
    header = None
    if rows and not (len(rows[0]) > integers_in and _is_integer(rows[0][integers_in])):
        header = rows.pop(0)
    if not rows:
        raise InvalidInput(f"The {what} {path} has no rows; write one line for each.")
    return Table(path, header, tuple(rows))


def _is_integer(cell: str) -> bool:
    return cell.removeprefix("-").isdecimal()
