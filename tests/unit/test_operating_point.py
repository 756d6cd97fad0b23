"""What the page on the operating point counts."""

from pathlib import Path

import numpy as np
import pytest
from made_up import sample, verdict

from flawline.report.evaluation import Evaluation
from flawline.report.operating_point import (
    COST_RATIOS,
    DEFECTIVE_SHARE,
    at_budget,
    cheapest_points,
    slider_budgets,
    view,
    zero_miss,
)
from flawline.scoring.calibration import p_value

CALIBRATION = np.arange(1, 100, dtype=np.float32)


def evaluation_of(folder: Path, good: list[float], defects: list[float], budget: float = 0.01) -> Evaluation:
    """Pictures of these scores, with the p-values of a line whose 99 normals scored 1 to 99."""
    evaluation = Evaluation(budget, look_again=0.05, calibration=CALIBRATION)
    for kind, scores in (("good", good), ("crack", defects)):
        for number, score in enumerate(scores):
            chance = p_value(score, CALIBRATION)
            answer = verdict(score, chance <= budget, spot=score / 50, p_value=chance, again=chance <= 0.05)
            evaluation.add(sample(folder, f"{number}", kind), answer)
    return evaluation


@pytest.fixture
def evaluation(tmp_path: Path) -> Evaluation:
    return evaluation_of(tmp_path, [10, 20, 30, 40, 96.5, 98.5], [25, 97.5, 99.5, 120])


@pytest.mark.parametrize(
    ("budget", "threshold", "alarmed", "found"),
    [(0.01, 99, 0, 2), (0.02, 98, 1, 2), (0.03, 97, 1, 3), (0.05, 95, 2, 3), (0.5, 50, 2, 3), (1.0, 1, 6, 4)],
)
def test_counts_at_a_budget_are_those_of_its_threshold(
    evaluation: Evaluation, budget: float, threshold: float, alarmed: int, found: int
) -> None:
    point = at_budget(evaluation, budget)
    assert (point.threshold, point.alarmed, point.found) == (threshold, alarmed, found)
    assert point.found == sum(row.score > threshold for row in evaluation.rows if row.is_defect)
    assert point.alarmed == sum(row.score > threshold for row in evaluation.rows if not row.is_defect)


def test_no_defect_is_missed_at_the_score_of_the_weakest(evaluation: Evaluation) -> None:
    point = zero_miss(evaluation)
    assert (point.found, point.alarmed) == (4, 4)
    assert 20 < point.threshold < 25  # type: ignore[operator]
    assert sum(row.score > point.threshold for row in evaluation.rows) == 8  # type: ignore[operator]


@pytest.mark.parametrize("seed", range(5))
def test_one_of_the_cheapest_points_is_the_cheapest_of_all_thresholds(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    good, defects = rng.integers(1, 60, 25).astype(float), rng.integers(20, 110, 15).astype(float)
    evaluation = evaluation_of(tmp_path, good.tolist(), defects.tolist())
    points = cheapest_points(evaluation)

    def cost(alarmed: int, found: int, ratio: float) -> float:
        return alarmed / 25 + ratio * (15 - found) / 15

    for ratio in (0.01, 0.1, 0.5, 1, 2, 5, 50):
        every = [
            cost((good > each).sum(), (defects > each).sum(), ratio) for each in np.arange(-0.5, 111, 0.5)
        ]
        assert min(cost(p.alarmed, p.found, ratio) for p in points) == pytest.approx(min(every))
    for point in points:
        assert point.threshold is not None
        assert point.alarmed == (good > point.threshold).sum()
        assert point.found == (defects > point.threshold).sum()


def test_the_slider_has_the_lines_own_budget_and_every_small_one(evaluation: Evaluation) -> None:
    budgets = slider_budgets(evaluation)
    assert budgets == sorted(budgets)
    assert budgets[:5] == pytest.approx([0.01, 0.02, 0.03, 0.04, 0.05])
    assert budgets[-1] <= 0.5
    shown = view(evaluation)
    assert shown is not None
    assert shown["slider"]["steps"][shown["slider"]["start"]]["budget"] == 0.01


def test_the_page_shows_the_lines_own_points_and_no_budget_that_cannot_be_promised(
    evaluation: Evaluation,
) -> None:
    shown = view(evaluation)
    assert shown is not None
    assert [(row["budget"], row["role"], row["found"], row["alarmed"]) for row in shown["points"]] == [
        ("1%", "reject", 2, 0),
        ("2%", "", 2, 1),
        ("5%", "look again", 3, 2),
        ("10%", "", 3, 2),
        ("20%", "", 3, 2),
    ]
    assert [line["role"] for line in shown["lines"]] == ["reject", "look again"]
    assert shown["lines"][0]["place"] > shown["lines"][1]["place"]
    assert sum(bar["count"] for bar in shown["histogram"] if bar["kind"] == "good") == 6
    assert sum(bar["count"] for bar in shown["histogram"] if bar["kind"] == "defective") == 4


def test_a_dearer_miss_never_asks_for_a_higher_threshold(evaluation: Evaluation) -> None:
    shown = view(evaluation)
    assert shown is not None
    missed = [row["missed"] for row in shown["costs"]]
    assert [row["ratio"] for row in shown["costs"]] == list(COST_RATIOS)
    assert missed == sorted(missed, reverse=True)
    for row in shown["costs"]:
        cost = row["ratio"] * DEFECTIVE_SHARE * row["missed"] / 4 + (1 - DEFECTIVE_SHARE) * row["alarmed"] / 6
        others = [
            row["ratio"] * DEFECTIVE_SHARE * (4 - point.found) / 4 + (1 - DEFECTIVE_SHARE) * point.alarmed / 6
            for point in (at_budget(evaluation, budget / 100) for budget in range(1, 101))
        ]
        assert cost <= min(others) + 1e-12


def test_one_kind_of_picture_has_no_operating_point(tmp_path: Path) -> None:
    assert view(evaluation_of(tmp_path, [1, 2], [])) is None
    assert view(evaluation_of(tmp_path, [], [1, 2])) is None


@pytest.mark.parametrize("score", [0.0, 5.0])
def test_scores_that_are_all_alike_can_be_drawn(tmp_path: Path, score: float) -> None:
    shown = view(evaluation_of(tmp_path, [score] * 3, [score] * 2))
    assert shown is not None
    assert shown["most"] == 3
