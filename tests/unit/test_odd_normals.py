"""Odd normals: they are named and shown, it is said where they set the limit, and they can be left out."""

import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_lines import draw_line, small_recipe, write_teacher

from flawline.cli import main
from flawline.data import Dataset, load_dataset
from flawline.data.leave_out import leave_out
from flawline.data.squares import Square
from flawline.detectors.fitted import FittedLine
from flawline.errors import DataError
from flawline.jobs.evaluate import measure, report
from flawline.jobs.fit import fit
from flawline.scoring.calibration import calibrate
from flawline.scoring.oddness import FEWEST, STANDS_OUT, deviations, limit_statement

ODD = "007.png"


# --- which ones stand out, by hand ---


def test_deviations_are_robust_and_on_a_log_scale() -> None:
    logs = np.array([-2, -1, -1, 0, 0, 0, 1, 1, 40], np.float64)
    np.testing.assert_allclose(deviations(np.exp(logs)), logs / 1.4826, rtol=1e-9)
    np.testing.assert_allclose(deviations(1000 * np.exp(logs)), logs / 1.4826, rtol=1e-9)


def test_few_or_equal_scores_tell_nothing() -> None:
    scores = np.array([1.0] * (FEWEST - 2) + [900.0])
    assert not deviations(scores).any()
    assert not deviations(np.array([1.0] * 20 + [900.0])).any()
    assert np.isfinite(deviations(np.array([0.0] * 3 + list(range(1, 10))))).all()


def limit(extra: Sequence[float], false_alarm: float = 0.01) -> str | None:
    scores = np.array([*np.linspace(1, 2, 60 - len(extra)), *extra], np.float32)
    return limit_statement(calibrate(scores, scores, false_alarm=false_alarm, method="split"))


def test_one_odd_normal_sets_the_limit() -> None:
    """Of 60 normals the highest counts at 1/61 = 1.64 %; at 2/61 = 3.28 % it may alarm, and 2 is the limit."""
    said = limit([8.0])
    assert said == (
        "raising the budget from 1.64% to 3.28% lowers the score from which pictures are called defective by 75%: "
        "one odd normal sets the limit"
    )
    assert np.sum(deviations(np.array([*np.linspace(1, 2, 59), 8.0])) > STANDS_OUT) == 1


def test_the_budget_that_is_named_is_enough() -> None:
    scores = np.array([*np.linspace(1, 2, 59), 8.0], np.float32)
    calibration = calibrate(scores, scores, false_alarm=0.0328, method="split")
    assert calibration.false_alarm == pytest.approx(0.0328)
    assert 2 / 61 <= 0.0328


def test_two_odd_normals_are_passed_together() -> None:
    said = limit([8.0, 12.0])
    assert said is not None
    assert said.startswith("raising the budget from 1.64% to 4.92% lowers")
    assert said.endswith("by 83%: 2 odd normals set the limit")


def test_the_smallest_budget_that_does_most_of_it_is_named() -> None:
    said = limit([7.0, 80.0])
    assert said is not None
    assert said.startswith("raising the budget from 1.64% to 3.28% lowers")
    assert said.endswith("by 91%: one odd normal sets the limit")


def test_where_nothing_odd_sets_the_limit_nothing_is_said() -> None:
    assert limit([]) is None
    assert limit([8.0], false_alarm=0.05) is None, "it may alarm already"
    assert limit([8.0, 9.0, 10.0, 11.0]) is None, "so many are the tail of the scores"


# --- pictures ---


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Layout `folder` with its own split; one training picture, called good, has a large hole."""
    root = tmp_path_factory.mktemp("pictures")
    drawn = draw_line(
        tmp_path_factory.mktemp("drawn"), normals=20, test_normals=4, test_defects=4, train_defects=0
    )
    for split, samples in (("train", drawn.train_normals), ("test", drawn.test)):
        for number, sample in enumerate(samples):
            pixels = sample.read_image().copy()
            path = root / split / ("defect" if sample.is_defect else "good") / f"{number:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.name == ODD and split == "train":
                pixels[40:90, 30:90] = (255, 0, 255)
            Image.fromarray(pixels).save(path)
    return root


@pytest.fixture(scope="module")
def data(folder: Path) -> Dataset:
    return load_dataset(f"folder:{folder}")


@pytest.fixture(scope="module", params=[0.1, 0.3], ids=["k-fold", "split"])
def fitted(data: Dataset, teacher: str, request: pytest.FixtureRequest) -> FittedLine:
    recipe = small_recipe(teacher, false_alarm=request.param, positive="none")
    for seed in range(20):  # until the odd one is among those that calibrate
        line = fit("exdd", data, recipe, seed=seed)
        if any(each.name == f"good/{ODD}" for each in line.odd_normals):
            return line
    raise AssertionError


def test_the_odd_one_leads_by_name_score_and_p_value(fitted: FittedLine) -> None:
    first, *others = fitted.odd_normals
    assert first.name == f"good/{ODD}"
    assert first.p_value == pytest.approx(1 / len(fitted.calibration.scores))
    assert first.score == pytest.approx(float(fitted.calibration.scores[-1]), rel=1e-6)
    scores = [each.score for each in fitted.odd_normals]
    assert scores == sorted(scores, reverse=True)
    assert len(others) == min(5, len(fitted.calibration.scores) - 1)
    if len(fitted.calibration.scores) >= FEWEST:
        assert first.stands_out
        assert not any(each.stands_out for each in others[2:])
    sample, verdict = fitted.odd_pictures[0]
    assert sample.title == first.name
    hole = np.zeros((128, 128), np.bool_)
    hole[30:100, 20:100] = True
    assert hole.ravel()[verdict.anomaly_map.argmax()], "the map of the picture, not of another one"


def test_another_budget_keeps_them_and_other_normals_do_not(fitted: FittedLine) -> None:
    assert fitted.with_budget(0.4).odd_normals == fitted.odd_normals
    findings = fitted.model.find([Square.of(s.read_image(), 128) for s, _ in fitted.odd_pictures])
    found = [
        (each, verdict.geometry) for each, (_, verdict) in zip(findings, fitted.odd_pictures, strict=True)
    ]
    assert fitted.calibrated(found, false_alarm=0.2, method="split").odd_normals == ()


def test_they_are_shown_and_named(folder: Path, teacher: str, tmp_path: Path) -> None:
    recipe = small_recipe(teacher, positive="none")
    runs = measure("exdd", f"folder:{folder}", recipe, seeds=[0])
    report(tmp_path / "report.html", runs, title="t")
    page = (tmp_path / "report.html").read_text()
    start = page.index("<h3>Are these really good?</h3>")
    shown = page[start : page.index("<h3>Found defects, the clearest</h3>")]
    assert f"good/<wbr>{ODD}" in shown
    assert shown.count('alt="Heat map of') == 6
    assert f"good/{ODD} (" in page[page.index("Odd good pictures") :]
    assert page.count("Inspection of 8 test pictures") == 1, "they are no part of the test"


def evaluated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[object, str]:
    """Status and standard error, in one line, of the command `flawline evaluate exdd`."""
    monkeypatch.setattr(sys, "argv", ["flawline", "evaluate", "exdd", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code, " ".join(capsys.readouterr().err.split())


def test_the_command_names_the_odd_one_and_builds_without_it(
    folder: Path,
    teacher: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "r.yaml").write_text(
        f"{{size: 128, teacher: {teacher}, false_alarm: 0.05, exdd: {{positive: none}}}}\n"
    )
    (tmp_path / "odd.txt").write_text(f"# not good after all\n\ngood/{ODD} # a hole\n")
    words = ("--data", f"folder:{folder}", "--recipe", tmp_path / "r.yaml")
    code, told = evaluated(monkeypatch, capsys, *words)
    assert code in (0, None)
    assert re.search(rf"Odd good pictures: good/{ODD} \(\d+\.\d deviations above the others\)", told)
    assert re.search(
        r"Limit: raising the budget from 5.00% to 9.53% lowers .*: one odd normal sets the limit\.", told
    )
    code, told = evaluated(monkeypatch, capsys, *words, "--leave-out", tmp_path / "odd.txt")
    assert code in (0, None)
    assert "Left out 1 of 20 training pictures." in told
    assert f"good/{ODD}" not in told


def test_a_line_is_built_without_the_listed_pictures(folder: Path, teacher: str, tmp_path: Path) -> None:
    (tmp_path / "odd.txt").write_text(f"{folder}/train/good/{ODD}\ntrain/good/001.png\n")
    where, recipe = f"folder:{folder}", small_recipe(teacher, positive="none")
    before = measure("exdd", where, recipe, seeds=[0])[0]
    after = measure("exdd", where, recipe, seeds=[0], listed=tmp_path / "odd.txt")[0]
    assert (before.fitted.data.learnt_normals, after.fitted.data.learnt_normals) == (20, 18)
    assert after.row["data"] == f"{before.row['data']} without 2"
    assert after.fitted.data.fingerprint != before.fitted.data.fingerprint


# --- lists ---


def listing(tmp_path: Path, *lines: str) -> Path:
    (tmp_path / "odd.txt").write_text("\n".join(lines), encoding="utf-8-sig")
    return tmp_path / "odd.txt"


def test_names_may_be_paths_or_titles(data: Dataset, folder: Path, tmp_path: Path) -> None:
    lines = [
        f"{folder}/train/good/003.png",
        "  train/good/004.png  ",
        "good/005.png",
        "good/005.png",
        "#good/006.png",
    ]
    with_hash = folder / "train" / "good" / "part#9.png"
    hashed = replace(data.train_normals[9], image=with_hash)
    samples = (*data.samples, hashed)
    less = leave_out(replace(data, samples=samples), listing(tmp_path, *lines, "good/part#9.png"))
    gone = {sample.image.name for sample in set(samples) - set(less.samples)}
    assert gone == {"003.png", "004.png", "005.png", "part#9.png"}
    assert less.name.endswith(" without 4")
    assert leave_out(data, None) is data


def test_a_listed_test_picture_stays_and_is_told(
    data: Dataset, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    less = leave_out(data, listing(tmp_path, "good/001.png", "test/good/001.png"))
    assert less.test == data.test
    told = " ".join(capsys.readouterr().err.split())
    assert "Left out 1 of 20 training pictures; 1 that were listed are for testing and stay." in told
    with pytest.raises(DataError, match=r"all 1 listed pictures are for testing"):
        leave_out(data, listing(tmp_path, "test/good/001.png"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("good/999.png", r"odd.txt: 'good/999.png' is no picture of folder:"),
        ("good/012.png", r"'good/012.png' names 2 pictures of folder:.*; give the path of one"),
        ("# nothing", r"odd.txt: lists no picture to leave out"),
    ],
)
def test_names_that_cannot_be_meant_are_refused(
    data: Dataset, tmp_path: Path, line: str, message: str
) -> None:
    twin = replace(data.train_normals[12], image=Path("/elsewhere/good/012.png"))
    with pytest.raises(DataError, match=message):
        leave_out(replace(data, samples=(*data.samples, twin)), listing(tmp_path, line))


def test_a_list_that_cannot_be_read_is_named(data: Dataset, tmp_path: Path) -> None:
    for path in (tmp_path / "missing.txt", tmp_path):
        with pytest.raises(DataError, match=r"the list of pictures to leave out cannot be read"):
            leave_out(data, path)
