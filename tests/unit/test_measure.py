"""`flawline evaluate` from pictures to figures, words and files, on a small line."""

import csv
import json
import os
import shutil
from pathlib import Path

import pytest
from small_lines import draw_line, small_recipe, write_teacher

from flawline.data import Sample, load_holdout
from flawline.errors import DataError, OutputError
from flawline.jobs import evaluate as job
from flawline.jobs.evaluate import Run, measure, report, statements
from flawline.recipe import Recipe


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiles` in layout folder with its split, and `later`, good pictures of the same process."""
    place = tmp_path_factory.mktemp("pictures")
    drawn = draw_line(
        place / "drawn", normals=40, test_normals=20, test_defects=8, train_defects=0, contrast=4.0, scale=2.0
    )
    normals = 0
    for sample in drawn.samples:
        normals += not sample.is_defect
        target = place / "tiles" / sample.split / sample.image.relative_to(drawn.root)
        if not sample.is_defect and normals > 50:
            target = place / "later" / sample.image.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(sample.image, target)
        if sample.mask is not None:
            mask = place / "tiles" / sample.split / sample.mask.relative_to(drawn.root)
            mask.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(sample.mask, mask)
    # Names as file systems allow them: bytes that are no UTF-8, line breaks, and what a page would take for HTML.
    rename(place / "tiles/train/good", LATIN)
    rename(place / "tiles/test/good", LATIN)
    for folder in ("", "masks"):
        rename(next((place / "tiles/test" / folder).glob("defect_*")), MARKUP)
    return place


LATIN, MARKUP = os.fsdecode(b"gr\xfcn\n<b>.png"), os.fsdecode(b"\xff<script>alert(1)<!--.png")


def rename(folder: Path, name: str) -> None:
    """Give the first picture of a folder another name."""
    first = min(folder.iterdir())
    first.rename(first.with_name(name))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    teacher = write_teacher(tmp_path_factory.mktemp("teacher"))
    return small_recipe(teacher, exdd={"positive": "none", "min_bank": 40}, look_again=0.3)


def test_figures_words_and_files_of_a_test_split_and_another_day(
    pictures: Path, recipe: Recipe, tmp_path: Path
) -> None:
    holdout = load_holdout(str(pictures / "later"))
    runs = measure(
        "exdd",
        f"folder:{pictures / 'tiles'}",
        recipe,
        seeds=[0, 1],
        json_file=tmp_path / "rows.json",
        holdout=holdout,
        scores_file=tmp_path / "scores.csv",
    )
    with (tmp_path / "scores.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 2 * (10 + 8 + 10)
    for run in runs:
        result, later = run.evaluation.result(), run.holdout and run.holdout.result()
        assert later is not None
        assert later.promise is not None
        assert (result.normals, result.defects, result.masked, later.normals) == (10, 8, 8, 10)
        assert result.look_again == 0.3
        words = statements(run.evaluation, run.holdout)
        assert words[0].startswith(f"{result.found} of 8 defects found")
        assert words[-1] == f"Good pictures of another day: {later.promise.sentence}"
        own = [line for line in lines if line["seed"] == str(run.evaluation.seed)]
        for kind, evaluation in (("test", run.evaluation), ("holdout", run.holdout)):
            kept = [line for line in own if line["set"] == kind]
            assert [float(line["score"]) for line in kept] == [row.score for row in evaluation.rows]
            assert [int(line["verdict"]) for line in kept] == [row.decision for row in evaluation.rows]
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["holdout"]["normals"] for row in rows] == [10, 10]
    assert [row["look_again"] for row in rows] == [0.3, 0.3]
    report(tmp_path / "report.html", runs, title="tiles")
    page = (tmp_path / "report.html").read_text()
    assert "Good pictures of another day" in page
    assert "<script>alert" not in page
    assert r"\xff&lt;script&gt;alert(1)&lt;!--.png" in page
    paths = {Path(line["path"]).name for line in lines}
    assert {r"gr\xfcn\n<b>.png", r"\xff<script>alert(1)<!--.png"} <= paths


def test_what_is_wrong_is_said_before_anything_is_fitted(
    pictures: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        pytest.fail("fitted")

    monkeypatch.setattr(job, "fit_named", fail)

    def attempt(**options: object) -> list[Run]:
        return measure("exdd", f"folder:{pictures / 'tiles'}", recipe, seeds=[0], **options)  # type: ignore[arg-type]

    good = next((pictures / "tiles" / "train" / "good").iterdir())
    copied = Path(shutil.copy(good, tmp_path / "renamed.png"))
    holdout = (*load_holdout(str(pictures / "later")), Sample(copied, "good", None, "x", "test"))
    with pytest.raises(
        DataError,
        match=r"1 of the 11 pictures of the hold-out are also among those of folder:tiles: .*renamed",
    ):
        attempt(holdout=holdout)
    before = good.read_bytes()
    with pytest.raises(OutputError, match="is there and was not made by Flawline"):
        attempt(scores_file=good)
    assert good.read_bytes() == before
    with pytest.raises(OutputError, match="two results would be written"):
        attempt(scores_file=tmp_path / "one", json_file=tmp_path / "one")
