"""Rows of a CSV file as spreadsheets and people write it: encodings, separators, quotes, empty rows and columns."""

import codecs
import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flawline.errors import DataError

SEPARATORS = (",", ";", "\t", "|")
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


@dataclass(frozen=True)
class Row:
    """A row that is not empty: its cells by column, where it begins, and what may have gone wrong in it."""

    cells: Mapping[str, str]
    place: str
    hint: str = ""


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """Read a table with a header.

    UTF-8, UTF-16 and UTF-32 are told by their mark or their zeros; else UTF-8 is tried, and then Windows-1252. Line
    ends are those of any system. The separator is that of SEPARATORS which gives the most columns. Case of the
    header, spaces around cells, columns beside `columns`, and empty rows and columns do not matter.

    Args:
        path: CSV file.
        columns: names of the columns that it must have, in lower case.

    Raises:
        DataError: the file cannot be read, a column is missing or there twice, or a quote is not closed. The
            message gives the line.

    """
    lines = [f"{line}\n" for line in _text(path).split("\n")]
    start, separator = 0, None
    while start < len(lines) and (
        not lines[start].strip(" \n,;|\t") or lines[start].lower().startswith("sep=")
    ):
        if lines[start].lower().startswith("sep="):  # Excel's own line
            separator = lines[start][4:5]
        start += 1
    header, separator = _header(lines[start : start + 1], columns, separator)
    missing = [column for column in columns if column not in header]
    if missing:
        msg = (
            f"{path}, line {start + 1}: has no column {', '.join(missing)}; it needs {', '.join(columns)}, between "
            "commas, semicolons or tabs"
        )
        raise DataError(msg)
    twice = [column for column, count in Counter(header).items() if count > 1 and column in columns]
    if twice:
        msg = f"{path}, line {start + 1}: has column {', '.join(twice)} twice; keep one"
        raise DataError(msg)
    places = {column: header.index(column) for column in columns}
    reader = csv.reader(lines[start + 1 :], delimiter=separator, skipinitialspace=True, strict=True)
    begins = start + 2
    while True:
        try:
            row = [_plain(cell) for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            msg = (
                f"{path}, line {begins}: a quote is not closed, or is followed by more ({error}); "
                "put a whole cell in quotes, and write a quote in it twice"
            )
            raise DataError(msg) from error
        if any(row):
            cells = {column: row[place] if place < len(row) else "" for column, place in places.items()}
            hint = ""
            if any(row[len(header) :]):
                hint = (
                    f" (the line has {len(row)} cells and the header {len(header)}; "
                    "a cell that holds the separator needs quotes)"
                )
            yield Row(cells, f"{path}, line {begins}", hint)
        begins = start + 2 + reader.line_num


def _header(line: Sequence[str], columns: Sequence[str], separator: str | None) -> tuple[list[str], str]:
    """Cells of a header, in lower case, and its separator: the given one, or that which finds the most columns."""
    best: tuple[list[str], str] = ([], SEPARATORS[0])
    for each in [separator] if separator else SEPARATORS:
        try:
            (cells,) = csv.reader(line, delimiter=each, skipinitialspace=True)
        except (csv.Error, ValueError):
            continue
        names = [_plain(cell).lower() for cell in cells]
        if len(set(names) & set(columns)) > len(set(best[0]) & set(columns)):
            best = (names, each)
    return best


def _plain(cell: str) -> str:
    """Cut off spaces of all kinds, also those that take no room."""
    return cell.strip().strip("\ufeff\u200b").strip()


def _text(path: Path) -> str:
    r"""Return the content of a file, with \n for each line end."""
    try:
        content = path.read_bytes()
        text = _decoded(content)
    except (OSError, UnicodeError) as error:
        msg = f"{path} cannot be read ({error}); save it as UTF-8 CSV"
        raise DataError(msg) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _decoded(content: bytes) -> str:
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return content[len(mark) :].decode(encoding)
    head = content[:64]
    for first, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        if len(head) > 1 and not any(head[first::2]):
            return content.decode(encoding)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")
