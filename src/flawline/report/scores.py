"""What a line said of every picture, as a CSV file for one's own figures."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from flawline.files import check_output, write_atomically
from flawline.report.gallery import PictureRow
from flawline_client.folders import shown

COLUMNS = ("path", "label", "score", "p_value", "verdict", "located", "set", "seed")
"""`label` is the class, `good` for good pictures; `verdict` 0 pass, 1 look again, 2 reject, as tensor VERDICT.

`located` is 1 where the strongest place of the map lies on the mask, 0 where it does not, and empty without a mask.
`set` is `test`, `holdout`, or `train` where a build had no test pictures to compare.
"""

_MARK = ",".join(COLUMNS).encode() + b"\n"
"""First line of the file, by which it is known."""

Group = tuple[str, int, Sequence[PictureRow]]
"""Name of a set, seed of the fit, and what was said of each picture."""


def check_scores_file(path: Path) -> None:
    """Refuse, before any work is done, a file that cannot be written or that is there and holds no scores.

    Raises:
        OutputError: as flawline.files.check_output.

    """
    check_output(path, "--scores", _MARK)


def write_scores(path: Path, groups: Iterable[Group]) -> None:
    """Write one line for each picture, with COLUMNS as the first; the file is written whole or not at all.

    Scores and p-values are written so that they read back as the same numbers.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name, seed, rows in groups:
        for row in rows:
            located = "" if row.located is None else int(row.located)
            figures = (repr(row.score), repr(row.p_value), int(row.decision), located)
            writer.writerow((_text(row.path), row.defect_class, *figures, name, seed))
    write_atomically(path, text.getvalue(), over=_MARK)


def _text(path: Path) -> str:
    """Return a path as it is, or as `shown` where it is no UTF-8 and a table of text cannot hold it."""
    text = str(path)
    return text if text.encode(errors="ignore").decode() == text else shown(path)
