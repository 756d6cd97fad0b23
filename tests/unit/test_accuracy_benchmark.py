"""The accuracy benchmark's own parts: random teachers, jobs for the peer, its rows, the table."""

import json
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "accuracy"))
import auto
import common
import held_out
import peer
import run
import teachers
from peer_job import Answer, AnswerFacts, Job, read_answer, read_job, write
from random_teacher import write_random_teacher
from small_lines import write_teacher
from tables import accuracy_table, auto_table, fusion_table

from flawline.data import Dataset, load_dataset
from flawline.data.splits import write_split
from flawline.errors import DataError
from flawline.recipe import Recipe, read_recipe
from flawline.teachers import load_teacher

ROOT = Path(__file__).parents[2]
DATA = "surfaces:woven,size=64x128,normals=12,test_normals=3,test_defects=3,train_defects=2"
RECIPE = Recipe.model_validate({"size": 128, "folds": 3, "false_alarm": 0.1, "positive": "none"})


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return load_dataset(DATA)


@pytest.fixture(scope="module")
def job(dataset: Dataset) -> tuple[Job, list, list]:
    return peer.make_job(dataset, RECIPE, seed=0)


def made_up_answer(job: Job, dataset: Dataset) -> Answer:
    """Exact maps: 2 on the defects, 1 elsewhere on the picture, and 99 on the filling, which must not count."""
    held_out, size = sum(map(len, job.facts.held_out)), job.train.shape[1]
    maps = np.full((len(dataset.test), size, size), 99.0, dtype=np.float32)
    for each, sample in zip(maps, dataset.test, strict=True):
        each[: size // 2] = 1 + sample.read_mask(64, 128)
    calm = np.full((held_out, size, size), 99.0, dtype=np.float32)
    calm[:, : size // 2] = 1.0
    return Answer(
        facts=AnswerFacts(version="1.2.3", fit_seconds=4.56, peak_rss_mb=789.1, bank=5),
        calibration_scores=np.ones(held_out, dtype=np.float32),
        calibration_maps=calm,
        test_scores=maps[:, : size // 2].max(axis=(1, 2)) - np.float32(0.5),
        test_maps=maps,
    )


def test_random_teachers_are_the_same_for_a_seed_and_differ_between_seeds(tmp_path: Path) -> None:
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        write_random_teacher(seed, tmp_path / name)
    first, again, other = (load_teacher(str(tmp_path / name)) for name in ("first", "again", "other"))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    builtin = load_teacher("builtin")
    assert (first.layers, first.channels) == (builtin.layers, builtin.channels)
    assert first.mean.equal(builtin.mean)
    assert first.std.equal(builtin.std)


def test_a_floor_row_names_the_random_teacher(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in (run, common):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    (tmp_path / "build").symlink_to(ROOT / "build")
    monkeypatch.setattr(run, "RESULTS", tmp_path / "accuracy.json")
    rows = list(run.series(["exdd"], ["exdd"], ["folder:tiles"], [0, 1], floor=True))
    for seed, (arguments, teacher) in enumerate(rows):
        assert teacher.startswith(f"out/teachers/random-{seed}@")
        assert arguments[arguments.index("--teacher") + 1] == f"out/teachers/random-{seed}"
        assert arguments[arguments.index("--recipe") + 1] == "build/recipes/patchcore.yaml"
    assert len(rows) == 2


def test_a_student_is_trained_once_for_itself_and_for_its_pair() -> None:
    detectors = ["exdd", "sacd", "sacd+exdd"]
    rows = [args for args, _ in run.series(detectors, ["fine"], ["folder:a/b"], [0], floor=False)]
    assert [row[1] for row in rows] == detectors
    assert "--checkpoint" not in rows[0]
    assert {row[row.index("--checkpoint") + 1] for row in rows[1:]} == {"out/students/folder-fine"}


def test_rows_of_another_teacher_do_not_count_as_done(tmp_path: Path) -> None:
    results = tmp_path / "accuracy.json"
    assert common.rows_done(results) == set()
    results.write_text(json.dumps([{"command": "flawline evaluate", "teacher": "builtin@1"}]))
    assert common.rows_done(results) == {("flawline evaluate", "builtin@1")}


def test_a_job_holds_our_squares_and_our_folds(job: tuple[Job, list, list], dataset: Dataset) -> None:
    made, train_places, test_places = job
    assert made.train.shape == (12, 128, 128, 3)
    assert made.test.shape == (6, 128, 128, 3)
    assert made.train.dtype == np.uint8
    assert np.array_equal(made.test[0, :64], dataset.test[0].read_image())
    assert made.train_inside.shape == (12, 16, 16)
    assert made.train_inside[:, :8].all()
    assert not made.train_inside[:, 8:].any(), "the lower half is filling"
    assert sorted(row for part in made.facts.held_out for row in part) == list(range(12))
    assert (len(made.facts.held_out), made.facts.fit_again) == (3, True)
    assert (len(train_places), len(test_places)) == (12, 6)


def test_jobs_and_answers_survive_their_files(
    job: tuple[Job, list, list], dataset: Dataset, tmp_path: Path
) -> None:
    answer = made_up_answer(job[0], dataset)
    for content, read in ((job[0], read_job), (answer, read_answer)):
        write(tmp_path, content)
        back = read(tmp_path)
        assert back.facts == content.facts
        for field in fields(content)[1:]:
            old, new = getattr(content, field.name), getattr(back, field.name)
            assert old.dtype == new.dtype
            assert np.array_equal(old, new)


def test_a_pickle_is_refused(job: tuple[Job, list, list], tmp_path: Path) -> None:
    write(tmp_path, replace(job[0], test=np.array([object()])))
    with pytest.raises(ValueError, match="allow_pickle"):
        read_job(tmp_path)


def test_the_peer_is_judged_as_our_lines_are(job: tuple[Job, list, list], dataset: Dataset) -> None:
    made, train_places, test_places = job
    answer = made_up_answer(made, dataset)
    evaluation = peer.evaluate(
        dataset, RECIPE, made, answer, train_places=train_places, test_places=test_places
    )
    row = peer.make_row(evaluation, answer, data=dataset.name, teacher="builtin@1", command="python peer.py")
    assert (row["detector"], row["recipe"]) == ("patchcore (anomalib 1.2.3)", "anomalib")
    assert (row["image_auroc"], row["recall_at_budget"], row["false_alarm_rate"]) == (1.0, 1.0, 0.0)
    assert (row["pixel_auroc"], row["aupro"]) == (1.0, 1.0), "the filling counts nowhere"
    assert (row["fit_seconds"], row["peak_rss_mb"], row["labels_used"]) == (4.6, 789, "none")


def test_a_data_set_without_test_pictures_is_refused(dataset: Dataset) -> None:
    untested = replace(dataset, samples=dataset.train_normals)
    with pytest.raises(DataError, match="has no test pictures"):
        peer.make_job(untested, RECIPE, seed=0)


def test_the_table_keeps_teachers_apart_and_shows_a_dash_for_what_is_not_known() -> None:
    figures = dict.fromkeys(
        ("image_auroc", "image_ap", "pixel_auroc", "aupro", "recall_at_budget", "false_alarm_rate"), 0.5
    )
    row = {"data": "d", "detector": "exdd", "recipe": "patchcore", "labels_used": "none"} | figures
    unknown = {"recall_at_budget": None, "false_alarm_rate": None}
    table = accuracy_table(
        [
            row | {"teacher": "efficientnet_lite0@1"},
            row | {"teacher": "builtin@4"},
            row | {"teacher": "out/teachers/random-0@2", "image_auroc": 0.25},
            row | {"teacher": "out/teachers/random-1@3", "image_auroc": 0.75},
            row | {"teacher": "efficientnet_lite0@1", "detector": "patchcore (anomalib 1.2.3)"} | unknown,
        ]
    )
    lines = table.splitlines()[2:]
    assert [line.split(" | ")[1] for line in lines] == [
        "exdd, patchcore",
        "exdd, patchcore, teacher builtin",
        "exdd, patchcore, teacher of random weights",
        "patchcore (anomalib 1.2.3), patchcore",
    ]
    heads = [head.strip(" |") for head in table.splitlines()[0].split(" | ")]
    assert heads[4:7] == ["found at 1 % budget", "false alarms", "image AUROC"], "the operating point leads"
    assert "found at 1 % (ROC)" not in heads, "no row has it"
    assert lines[2].split(" | ")[3:7] == ["2", "0.500 ± 0.000", "0.500 ± 0.000", "0.500 ± 0.354"]
    assert lines[3].split(" | ")[4:6] == ["–", "–"]
    (newer,) = accuracy_table([row | {"teacher": "efficientnet_lite0@1", "found_at_1": 0.25}]).splitlines()[
        2:
    ]
    assert newer.split(" | ")[4:7] == ["0.500", "0.500", "0.250"]


def test_the_peers_default_recipe_uses_normals_alone() -> None:
    assert read_recipe(ROOT / peer.RECIPE).part("exdd").positive == "none"


@pytest.mark.skipif(
    not (peer.VENV / ".installed").exists(), reason="benchmarks/accuracy/peer.py has not made .venv-peer yet"
)
def test_anomalib_answers_a_job(job: tuple[Job, list, list], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer, "environment", lambda: peer.VENV / "bin" / "python")  # a test installs nothing
    made = job[0]
    everything = replace(made.facts, min_bank=10**6)
    answer = peer.ask(replace(made, facts=everything, test=made.train, test_inside=made.train_inside))
    assert answer.facts.bank == made.train_inside.sum(), "the filling is not learned"
    assert answer.calibration_scores.shape == answer.test_scores.shape == (12,)
    assert answer.test_maps.shape == (12, 128, 128)
    assert answer.calibration_scores.min() > 0
    # The last bank holds every patch of these very pictures; so the filling, which it lacks, was not scored.
    assert answer.test_scores.max() < 0.05 * answer.calibration_scores.min()


def test_teachers_are_compared_on_generated_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The shipped teacher ranks obvious defects far better than one that has learned nothing; rows are replaced."""

    lines = ["surfaces:cast,size=128,normals=6,test_normals=5,test_defects=5,train_defects=0,contrast=1.0"]
    monkeypatch.setattr(teachers, "LINES", lines)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_random_teacher(0, tmp_path / "random-0")
    file = tmp_path / "teachers.json"
    options = {"layers": "", "even": True, "steps": 0, "json_file": file}
    for _ in range(2):
        teachers.main(teachers=["builtin", str(tmp_path / "random-0")], **options)
    learned, random = json.loads(file.read_text())
    assert (learned["teacher"], random["teacher"]) == ("builtin", "random-0")
    assert learned["image_auroc"] > random["image_auroc"]
    assert learned["image_auroc"] > 0.9
    assert "builtin (2, 3) even" in capsys.readouterr().out


def test_a_held_out_split_has_no_test_picture_and_no_defect_of_an_item_that_teaches(
    tmp_path: Path, dataset: Dataset
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for sample in dataset.samples:
        for file in filter(None, (sample.image, sample.mask)):
            copy = source / file.relative_to(dataset.root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    normals = len(dataset.train_normals)
    items = {sample.image: f"item {number // 2}" for number, sample in enumerate(dataset.train_normals)}
    # One labelled defect lies on the first of the items with good pictures, the others on items of their own.
    items |= {sample.image: f"item {10 * number}" for number, sample in enumerate(dataset.train_defects)}
    moved = [
        replace(
            sample,
            image=source / sample.image.relative_to(dataset.root),
            mask=sample.mask and source / sample.mask.relative_to(dataset.root),
            group=items.get(sample.image, "test"),
        )
        for sample in dataset.samples
    ]
    write_split(source, moved)
    for seed in (0, 1, 2):
        folder = tmp_path / f"held-{seed}"
        held_out.write_held_out(f"folder:{source}", seed, folder)
        again = load_dataset(f"folder:{folder}")
        assert {sample.group for sample in again.samples} <= {*items.values()}
        taught = {sample.group for sample in again.train_normals}
        assert len(taught) == round(held_out.SHARE * normals / 2)
        assert not again.train_defects
        assert taught.isdisjoint(sample.group for sample in again.test)
        defects = sum(sample.is_defect for sample in again.test)
        assert defects == len(dataset.train_defects) - ("item 0" in taught)
        for sample in again.test:
            assert sample.read_mask(*sample.read_image().shape[:2]).any() == sample.is_defect


def test_the_table_of_rules_has_a_column_for_each_line_and_the_best_rule_last() -> None:
    lines = (("surfaces:woven,seed=1", "sacd+exdd"), ("magnetic_tile:out/magnetic_tile-0", "ddpm_ast+exdd"))
    rows = [
        {"line": line, "detector": detector, "rule": rule, "image_auroc": image, "aupro": image / 2}
        for line, detector in lines
        for rule, image in (("max", 0.9), ("mean", 0.8))
    ]
    other = {**rows[0], "recipe": "cracks", "image_auroc": 0.99}
    assert "0.990" in fusion_table("cracks", [*rows, other])
    assert fusion_table(None, [*rows, other]).splitlines() == [
        "| rule | image AUROC | AUPRO | woven | magnetic_tile-0, ddpm_ast |",
        "| --- | --- | --- | --- | --- |",
        "| mean | 0.800 | 0.400 | 0.800 / 0.400 | 0.800 / 0.400 |",
        "| max | 0.900 | 0.450 | 0.900 / 0.450 | 0.900 / 0.450 |",
    ]


def test_every_candidate_of_a_search_is_measured_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(auto, "CHECKPOINTS", tmp_path / "searches")
    recipe, teacher = tmp_path / "banks.yaml", write_teacher(tmp_path)
    recipe.write_text(f"{{detector: exdd, size: 128, folds: 3, synthetic_count: 4, teacher: {teacher}}}")
    options = {
        "data": "surfaces:woven,size=128,normals=18,test_normals=6,test_defects=6,train_defects=0,contrast=2.0",
        "recipe": recipe,
        "seeds": "0",
        "results": tmp_path / "auto.json",
    }
    auto.main(**options)
    rows = json.loads((tmp_path / "auto.json").read_text())
    assert [(row["even_exposure"], row["order"]) for row in rows] == [(True, 0), (False, 1)]
    assert sum(row["chosen"] for row in rows) == 1
    assert all(0 <= row[name] <= 1 for row in rows for name in ("merit", "image_auroc", "aupro", "found"))
    other = {**rows[0], "seed": 9}
    gone = {**rows[0], "size": 512}
    (tmp_path / "auto.json").write_text(json.dumps([other, gone, *rows]))
    monkeypatch.setattr(auto, "fit", None)
    auto.main(**options)
    again = json.loads((tmp_path / "auto.json").read_text())
    assert again[0] == other
    assert [row["image_auroc"] for row in again[1:]] == [row["image_auroc"] for row in rows]
    assert '"merit"' in capsys.readouterr().out


def test_the_table_of_searches_says_how_often_the_best_is_chosen_and_what_is_lost() -> None:
    def row(seed: int, order: int, auroc: float, found: float, *, chosen: bool) -> dict:
        settings = {"data": "tiles", "recipe": "default", "teacher": "t", "seed": seed, "even_exposure": True}
        detector = ("exdd", "sacd+exdd")[order]
        figures = {"image_auroc": auroc, "found": found, "chosen": chosen, "order": order}
        return {**settings, "detector": detector, "size": 256, **figures}

    rows = [
        row(0, 0, 0.8, 0.4, chosen=True),
        row(0, 1, 0.9, 0.5, chosen=False),
        row(1, 1, 0.9, 0.6, chosen=True),
        row(1, 0, 0.8, 0.2, chosen=False),
    ]
    lines = auto_table(rows).splitlines()
    assert lines[2].split(" | ")[4:] == [
        "`exdd`, 256, evened",
        "`sacd+exdd`, 256, evened",
        "0.800 / 0.900",
        "0.400 / 0.500 |",
    ]
    assert lines[-2:] == [
        "| auto | 1 of 2 | 0.050 | 0.050 |",
        "| always the first candidate | 0 of 2 | 0.100 | 0.250 |",
    ]
