"""What a line said of every picture, as a CSV file for one's own figures."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from flawline.errors import RecipeError
from flawline.files import check_outputs, write_atomically
from flawline.report.gallery import PictureRow
from flawline_client.folders import shown

COLUMNS = ("path", "label", "score", "p_value", "verdict", "located", "set", "seed")
"""`label` is the class, `good` for good pictures; `verdict` 0 pass, 1 look again, 2 reject, as tensor VERDICT.

`located` is 1 where the strongest place of the map lies on the mask, 0 where it does not, and empty without a mask.
`set` is `test`, `holdout`, or `train` where a build had no test pictures to compare.
"""

Group = tuple[str, int, Sequence[PictureRow]]
"""Name of a set, seed of the fit, and what was said of each picture."""


def check_scores_file(path: Path, *others: Path | None) -> None:
    """Refuse a file that is there and holds no scores: it may be a picture, a split or a recipe.

    Args:
        path: file to write later.
        others: files that the same command writes; None for those that it does not.

    Raises:
        RecipeError: the file would be overwritten though it holds something else, or is to be written twice, or
            cannot be written where it is; see check_outputs.

    """
    check_outputs({**{f"result {number}": other for number, other in enumerate(others)}, "--scores": path})
    if path.exists():
        with path.open("rb") as file:
            head = file.readline(200)
        if head.rstrip() != ",".join(COLUMNS).encode():
            msg = f"{path} is there and holds no scores of Flawline; give --scores the name of another file"
            raise RecipeError(msg)


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
    write_atomically(path, text.getvalue())


def _text(path: Path) -> str:
    """Return a path as it is, or as `shown` where it is no UTF-8 and a table of text cannot hold it."""
    text = str(path)
    return text if text.encode(errors="ignore").decode() == text else shown(path)
