"""The file of scores: what is in it, and which files it never replaces."""

import csv
from pathlib import Path

import pytest
from made_up import sample, verdict

from flawline.errors import OutputError
from flawline.report.evaluation import Evaluation
from flawline.report.scores import COLUMNS, check_scores_file, write_scores


def written(path: Path, folder: Path) -> list[dict[str, str]]:
    test, holdout = Evaluation(budget=0.05, seed=3), Evaluation(budget=0.05, seed=3)
    test.add(sample(folder, "a, b"), verdict(1 / 3, False, p_value=0.3))
    test.add(sample(folder, "c", "crack"), verdict(2.5, True, spot=2.5, p_value=0.01))
    test.add(sample(folder, "d", "dent", mask=None), verdict(0.7, False, again=True))
    holdout.add(sample(folder, "later"), verdict(0.9, True))
    write_scores(path, [("test", 3, test.rows), ("holdout", 3, holdout.rows)])
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_picture_has_its_line(tmp_path: Path) -> None:
    rows = written(tmp_path / "out" / "scores.csv", tmp_path)
    assert tuple(rows[0]) == COLUMNS
    assert [
        (Path(row["path"]).name, row["label"], row["verdict"], row["located"], row["set"]) for row in rows
    ] == [
        ("a, b.png", "good", "0", "", "test"),
        ("c.png", "crack", "2", "1", "test"),
        ("d.png", "dent", "1", "", "test"),
        ("later.png", "good", "2", "", "holdout"),
    ]
    assert all(Path(row["path"]).is_file() for row in rows)
    assert float(rows[0]["score"]) == 1 / 3
    assert {row["seed"] for row in rows} == {"3"}


def test_a_file_of_scores_may_be_written_anew_and_nothing_else_may(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    check_scores_file(path)
    assert written(path, tmp_path) == written(path, tmp_path)
    check_scores_file(path)
    for name, content in (
        ("picture.png", b"\x89PNG\r\n\x1a\n\x00"),
        ("split.csv", b"image,mask,class,group,split\n"),
        ("recipe.yaml", b"size: 128\n"),
        ("empty.csv", b""),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(OutputError, match=f"{name} is there and was not made by Flawline; .* --scores"):
            check_scores_file(tmp_path / name)
        with pytest.raises(OutputError, match=f"{name} is there"):
            write_scores(tmp_path / name, [])
        assert (tmp_path / name).read_bytes() == content
    with pytest.raises(OutputError, match="is a folder"):
        check_scores_file(tmp_path)
