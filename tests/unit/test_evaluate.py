"""What an evaluation counts, keeps and writes."""

import json
from pathlib import Path

import numpy as np
import pytest
from made_up import HEIGHT, WIDTH, sample, verdict

from flawline.errors import DataError, RecipeError
from flawline.files import write_atomically
from flawline.report.evaluation import (
    ACCURACY_KEY,
    GALLERY_SIZE,
    Evaluation,
    EvaluationResult,
    accuracy_row,
    check_rows_file,
    merge_rows,
    peak_rss_mb,
    spread,
)


def small_test(folder: Path) -> Evaluation:
    """Four good pictures, one of them called; three cracks, two found; one dent, missed."""
    evaluation = Evaluation(budget=0.05, seed=7)
    for index, (score, called) in enumerate([(0.1, False), (0.2, False), (0.3, False), (0.8, True)]):
        evaluation.add(sample(folder, f"g{index}"), verdict(score, called))
    for index, (score, called) in enumerate([(0.9, True), (0.7, True), (0.25, False)]):
        evaluation.add(sample(folder, f"c{index}", "crack"), verdict(score, called, spot=score * 2))
    evaluation.add(sample(folder, "d0", "dent"), verdict(0.4, False, spot=0.5))
    return evaluation


def test_counts_and_figures(tmp_path: Path):
    result = small_test(tmp_path).result()
    assert (result.images, result.normals, result.defects) == (8, 4, 4)
    assert (result.found, result.false_alarms) == (2, 1)
    assert result.recall_at_budget == 0.5
    assert result.false_alarm_rate == 0.25
    assert {name: (entry.recall, entry.count) for name, entry in result.recall_by_class.items()} == {
        "crack": (pytest.approx(2 / 3), 3),
        "dent": (0.0, 1),
    }
    assert result.image_auroc == pytest.approx(12 / 16)  # 4 + 3 + 2 + 3 of 16 pairs in order
    assert (result.pixel_images, result.regions) == (8, 4)
    assert result.budget == 0.05


def test_what_the_line_does_is_told_from_what_the_roc_curve_allows(tmp_path: Path):
    """Four normals, so that no share of 1, 2 or 5 % allows an alarm: only 0.9 lies above the highest, 0.8."""
    result = small_test(tmp_path).result()
    assert (result.found_at_1, result.found_at_2, result.found_at_5) == (0.25, 0.25, 0.25)
    assert (result.recall_at_budget, result.false_alarm_rate) == (0.5, 0.25)
    many = Evaluation(budget=0.05)
    for index in range(100):
        many.add(sample(tmp_path, f"n{index}"), verdict(index / 100, False))
    for score in (0.985, 0.975, 0.955, 0.5):
        many.add(sample(tmp_path, f"s{score}", "crack"), verdict(score, False, spot=1.0))
    figures = many.result()
    assert (figures.found_at_1, figures.found_at_2, figures.found_at_5) == (0.25, 0.5, 0.75)
    assert figures.recall_at_budget == 0


def test_a_defect_whose_strongest_place_lies_elsewhere_is_found_but_not_located(tmp_path: Path):
    evaluation = Evaluation(budget=0.05)
    evaluation.add(sample(tmp_path, "g"), verdict(0.1, False))
    evaluation.add(sample(tmp_path, "hit", "crack"), verdict(0.9, True, spot=2.0))
    beside = verdict(0.8, True, spot=2.0)
    beside.anomaly_map[2, 2] = 5.0
    evaluation.add(sample(tmp_path, "beside", "crack"), beside)
    evaluation.add(sample(tmp_path, "missed", "crack"), verdict(0.05, False, spot=0.5))
    evaluation.add(sample(tmp_path, "unlabelled", "crack", mask=None), verdict(0.7, True, spot=2.0))
    result = evaluation.result()
    assert [row.located for row in evaluation.rows] == [None, True, False, True, None]
    assert (result.found, result.defects) == (3, 4)
    assert (result.located, result.masked) == (1, 3)
    assert result.located_at_budget == pytest.approx(1 / 3)
    assert (result.found_at_1, result.located_at_1) == (0.75, pytest.approx(1 / 3))
    assert result.statements[0] == (
        "3 of 4 defects found (75.0%, interval 19.4% to 99.4%); 1 of 3 with a mask found and located."
    )


def test_a_set_without_masks_is_measured_by_pictures_alone(tmp_path: Path):
    evaluation = Evaluation(budget=0.05)
    evaluation.add(sample(tmp_path, "g"), verdict(0.1, False))
    evaluation.add(sample(tmp_path, "c", "crack", mask=None), verdict(0.9, True, spot=2.0))
    result = evaluation.result()
    assert (result.recall_at_budget, result.found_at_1, result.image_auroc) == (1, 1, 1)
    assert (result.masked, result.located_at_budget, result.located_at_1, result.aupro) == (
        0,
        None,
        None,
        None,
    )
    assert "located" not in result.statements[0]


def test_pictures_to_look_at_again_are_counted_apart(tmp_path: Path):
    evaluation = Evaluation(budget=0.05, look_again=0.2)
    evaluation.add(sample(tmp_path, "g0"), verdict(0.1, False))
    evaluation.add(sample(tmp_path, "g1"), verdict(0.3, False, again=True))
    evaluation.add(sample(tmp_path, "c0", "crack"), verdict(0.4, False, again=True))
    evaluation.add(sample(tmp_path, "c1", "crack"), verdict(0.5, False, again=True))
    evaluation.add(sample(tmp_path, "c2", "crack"), verdict(0.9, True))
    result = evaluation.result()
    assert (result.found, result.false_alarms) == (1, 0)
    assert (result.defects_to_look_at, result.normals_to_look_at) == (2, 1)
    assert result.statements[-1] == "To be looked at again: 1 more good and 2 more defective pictures."


def test_the_promise_is_tested_on_the_normals_against_those_that_calibrated(tmp_path: Path):
    calibration = np.linspace(0, 1, 60, dtype=np.float32)
    evaluation = Evaluation(budget=0.05, calibration=calibration)
    for index in range(40):
        evaluation.add(sample(tmp_path, f"g{index}"), verdict(2 + index / 100, index < 2))
    test = evaluation.result().promise
    assert test is not None
    assert (test.normals, test.alarmed, test.answer) == (40, 2, "does not carry over")
    assert "the promise does not carry over" in " ".join(evaluation.result().statements)


def test_map_that_lights_up_the_label_alone_is_near_perfect_whatever_the_padding_says(tmp_path: Path):
    result = small_test(tmp_path).result()
    assert result.pixel_auroc > 0.99
    assert result.aupro > 0.97


@pytest.mark.parametrize("mask", [None, "empty"])
def test_defect_without_pixel_label_counts_as_picture_but_not_as_pixels(tmp_path: Path, mask: str | None):
    evaluation = small_test(tmp_path)
    before = evaluation.result()
    evaluation.add(sample(tmp_path, "unlabelled", "dent", mask=mask), verdict(0.95, True, spot=50))
    after = evaluation.result()
    assert after.defects == before.defects + 1
    assert after.pixel_images == before.pixel_images
    assert (after.pixel_auroc, after.pixel_ap, after.aupro) == (
        before.pixel_auroc,
        before.pixel_ap,
        before.aupro,
    )
    assert evaluation.hits[0].truth is None


@pytest.mark.parametrize("defect_class", ["good", "crack"])
def test_one_kind_of_picture_gives_none_and_valid_json(tmp_path: Path, defect_class: str):
    evaluation = Evaluation(budget=0.05)
    evaluation.add(sample(tmp_path, "only", defect_class, mask=None), verdict(0.4, True))
    result = evaluation.result()
    assert (result.image_auroc, result.image_ap, result.f1_max, result.pixel_auroc) == (
        None,
        None,
        None,
        None,
    )
    assert (result.false_alarm_rate is None) == (defect_class == "crack")
    assert (result.recall_at_budget is None) == (defect_class == "good")
    assert json.loads(result.model_dump_json())["image_auroc"] is None
    assert EvaluationResult.model_validate_json(result.model_dump_json()) == result


@pytest.mark.parametrize("part", ["score", "map"])
def test_scores_that_are_not_finite_are_refused_by_name(tmp_path: Path, part: str):
    bad = verdict(float("nan") if part == "score" else 0.5, False)
    if part == "map":
        bad.anomaly_map[0, 0] = np.nan
    evaluation = Evaluation(budget=0.05)
    with pytest.raises(RecipeError, match=r"broken\.png"):
        evaluation.add(sample(tmp_path, "broken"), bad)
    assert evaluation.rows == []


def test_galleries_hold_the_most_telling_and_no_more(tmp_path: Path):
    evaluation = Evaluation(budget=0.05)
    for index in np.random.default_rng(0).permutation(20):
        score = 0.5 + index / 100
        evaluation.add(sample(tmp_path, f"h{index:02}", "crack"), verdict(score, True))
        evaluation.add(sample(tmp_path, f"m{index:02}", "crack"), verdict(score, False))
        evaluation.add(sample(tmp_path, f"a{index:02}"), verdict(score, True))
        evaluation.add(sample(tmp_path, f"p{index:02}"), verdict(score, False))

    def names(cards: list) -> list[str]:
        return [card.row.name for card in cards]

    assert names(evaluation.hits) == [f"crack/h{index}.png" for index in range(19, 19 - GALLERY_SIZE, -1)]
    assert names(evaluation.weak_hits) == [f"crack/h{index:02}.png" for index in range(GALLERY_SIZE)]
    assert names(evaluation.misses) == [f"crack/m{index:02}.png" for index in range(GALLERY_SIZE)]
    assert names(evaluation.false_alarms) == [
        f"good/a{index}.png" for index in range(19, 19 - GALLERY_SIZE, -1)
    ]
    assert len(evaluation.passed) == GALLERY_SIZE
    assert len(evaluation.rows) == 80


def test_a_gallery_shows_each_item_once_by_its_best_picture(tmp_path: Path):
    evaluation = Evaluation(budget=0.05)
    for index, (score, group) in enumerate([(0.7, "a"), (0.9, "a"), (0.8, "b"), (0.6, "a")]):
        evaluation.add(sample(tmp_path, f"h{index}", "crack", group=group), verdict(score, True))
    assert [card.row.score for card in evaluation.hits] == [0.9, 0.8]


def test_strongest_and_narrowest_hits_do_not_repeat_each_other(tmp_path: Path):
    evaluation = small_test(tmp_path)
    assert [card.row.score for card in evaluation.hits] == [0.9, 0.7]
    assert evaluation.weak_hits == []


def test_a_card_shows_map_mask_boxes_and_label_in_place(tmp_path: Path):
    card = small_test(tmp_path).hits[0]
    assert card.picture.shape == (HEIGHT, WIDTH, 3)
    assert card.scores.shape == card.mask.shape == card.truth.shape == (HEIGHT, WIDTH)
    assert card.scores.max() < 3  # the padding's 9.0 is cut off
    assert np.array_equal(np.argwhere(card.mask).min(axis=0), [12, 60])
    assert np.array_equal(np.argwhere(card.truth).max(axis=0), [35, 83])
    assert card.boxes.tolist() == [[60, 12, 84, 36]]


def test_spread_over_seeds(tmp_path: Path):
    result = small_test(tmp_path).result()
    results = [result.model_copy(update={"image_auroc": value, "aupro": None}) for value in (0.9, 0.8, 1.0)]
    spreads = spread(results)
    assert spreads["image_auroc"].mean == pytest.approx(0.9)
    assert spreads["image_auroc"].std == pytest.approx(0.1)  # n - 1
    assert spreads["image_auroc"].n == 3
    assert "aupro" not in spreads
    assert spread(results[:1])["image_auroc"].std is None


def row(seed: int, **changes: object) -> dict[str, object]:
    base = {
        "detector": "sacd",
        "data": "surfaces",
        "teacher": "t",
        "recipe": "r",
        "seed": seed,
        "labels_used": "none",
    }
    return {**base, "image_auroc": 0.5, **changes}


def test_accuracy_row_has_the_agreed_fields(tmp_path: Path):
    made = accuracy_row(
        small_test(tmp_path).result(),
        detector="sacd",
        data="surfaces",
        teacher="builtin",
        recipe="default",
        seed=1,
        fit_seconds=12.345,
        peak_rss_mb=812.6,
        labels_used="none",
        command="flawline evaluate sacd",
    )
    assert set(ACCURACY_KEY) < set(made)
    assert (made["image_auroc"], made["recall_at_budget"], made["false_alarm_rate"]) == (0.75, 0.5, 0.25)
    assert {"image_ap", "pixel_auroc", "aupro", "command"} < set(made)
    assert [made[name] for name in ("found", "defects", "false_alarms", "normals")] == [2, 4, 1, 4]
    assert made["found_at_1"] == 0.25
    assert list(made).index("found_at_1") < list(made).index("image_auroc"), "the operating point leads"
    assert made["promise"]["answer"] == "too few to tell"
    assert "holdout" not in made
    assert (made["fit_seconds"], made["peak_rss_mb"]) == (12.3, 813)
    json.dumps(made, allow_nan=False)


def test_rows_are_merged_replaced_and_sorted(tmp_path: Path):
    path = tmp_path / "results" / "accuracy.json"
    merge_rows(path, [row(10), row(2)])
    merge_rows(path, [row(2, image_auroc=0.9), row(1, labels_used="masks"), row(1)])
    rows = json.loads(path.read_text())
    assert [(each["seed"], each["labels_used"]) for each in rows] == [
        (1, "masks"),
        (1, "none"),
        (2, "none"),
        (10, "none"),
    ]
    assert rows[2]["image_auroc"] == 0.9
    assert [each.name for each in path.parent.iterdir()] == ["accuracy.json"]


@pytest.mark.parametrize(
    "content", ["not json", '{"a": 1}', "[1, 2]", '[{"data": 1, "seed": 2}]', b"\xff\xfe\x00", b""]
)
def test_a_file_that_holds_something_else_is_refused_by_name_and_kept(tmp_path: Path, content: str | bytes):
    path = tmp_path / "accuracy.json"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    before = path.read_bytes()
    for write in (lambda: merge_rows(path, [row(1)]), lambda: check_rows_file(path)):
        with pytest.raises(DataError, match=r"accuracy\.json"):
            write()
    assert path.read_bytes() == before


def test_a_row_that_json_cannot_hold_leaves_the_file_as_it_was(tmp_path: Path):
    path = tmp_path / "accuracy.json"
    merge_rows(path, [row(1)])
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON compliant"):
        merge_rows(path, [row(2, image_auroc=float("nan"))])
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["accuracy.json"]


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path):
    folder = tmp_path / "accuracy.json"
    folder.mkdir()
    with pytest.raises(OSError, match="accuracy"):
        write_atomically(folder, "text", over=True)
    assert list(tmp_path.iterdir()) == [folder]


def test_peak_memory_is_in_megabytes():
    ballast = np.ones(25_000_000)
    assert ballast.nbytes / 1e6 < peak_rss_mb() < 50_000
