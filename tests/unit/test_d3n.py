"""The detector of boxes: what it learns, that it selects as greedy NMS does, and a line without good pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_boxes import KINDS, draw
from safetensors.torch import load_file

from flawline.data import Dataset, load_dataset
from flawline.data.squares import Squares
from flawline.detectors.d3n.learn import train_detector
from flawline.detectors.d3n.losses import Targets, generalised_overlap, losses, overlap
from flawline.detectors.d3n.network import BINS, Outputs, cell_middles
from flawline.detectors.d3n.nms import ROUNDS, ROWS, Select
from flawline.detectors.d3n.part import make
from flawline.detectors.d3n.pictures import Labelled, VaryConfig
from flawline.detectors.fitted import FittedLine
from flawline.errors import DataError, RecipeError
from flawline.jobs.evaluate import evaluate
from flawline.jobs.fit import fit
from flawline.recipe import Recipe
from flawline.scoring.windows import WindowSettings
from flawline.teachers import load_teacher

SIZE = 128
QUICK = {"steps": 120, "batch": 4, "learning_rate": 0.01, "backbone_rate": 1, "frozen": 0, "average": 0.9}


def recipe(**changes) -> Recipe:
    training = {**QUICK, "vary": {"scale": 0}, **changes}
    return Recipe.model_validate(
        {
            "teacher": "builtin",
            "size": SIZE,
            "false_alarm": 0.2,
            "d3n": {"width": 16, "precision": 0.7, "training": training},
        }
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load_dataset(f"voc:{draw(tmp_path_factory.mktemp('boxes') / 'line', 60)}")


@pytest.fixture(scope="module")
def fitted(data: Dataset) -> FittedLine:
    return fit("d3n", data, recipe(), seed=0)


def outputs_of(boxes: torch.Tensor, scores: torch.Tensor) -> Outputs:
    """Outputs that give exactly these boxes FP32 [N, 4] with these scores FP32 [N, C], cells of one pixel."""
    count = len(boxes)
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    distances = torch.cat((middles - boxes[:, :2], boxes[:, 2:] - middles), dim=1)
    assert distances.max() <= BINS - 1
    steps = torch.arange(BINS)
    share = (1 - (distances[..., None] - steps).abs()).clamp(min=0)
    return Outputs(scores.logit()[None], share.clamp(min=1e-30).log()[None], middles, torch.ones(count))


class TestSelect:
    @pytest.mark.parametrize("seed", range(4))
    def test_it_keeps_what_greedy_nms_keeps(self, seed: int) -> None:
        rng = torch.Generator().manual_seed(seed)
        corners = torch.rand((150, 2), generator=rng) * 40 + 5
        boxes = torch.cat((corners, corners + 4 + torch.rand((150, 2), generator=rng) * 16), dim=1)
        scores = torch.rand((150, 2), generator=rng) * 0.9 + 0.05
        (found,) = Select(64, 0.5)(outputs_of(boxes, scores))
        kept: list[tuple[float, int, torch.Tensor]] = []
        for score, place in sorted(((s, n) for n, s in enumerate(scores.flatten().tolist())), reverse=True)[
            :200
        ]:
            cell, label = divmod(place, 2)
            if all(label != other or overlap(boxes[cell], box) <= 0.5 for _, other, box in kept):
                kept.append((score, label, boxes[cell]))
        used = found[found[:, 4] >= 0]
        assert len(used) == min(len(kept), ROWS)
        for row, (score, label, box) in zip(used, kept, strict=False):
            assert row[4].item() == pytest.approx(score, abs=1e-5)
            assert row[5].item() == label
            torch.testing.assert_close(row[:4], box, atol=1e-3, rtol=0)

    def test_a_long_chain_is_settled(self) -> None:
        """Each box hides the next alone, so that every other one stays."""
        count = ROUNDS
        left = torch.arange(count) * 4.0
        boxes = torch.stack((left, torch.zeros(count), left + 12, torch.full((count,), 10.0)), dim=1)
        scores = torch.linspace(0.9, 0.3, count)[:, None]
        (found,) = Select(128, 0.45)(outputs_of(boxes, scores))
        assert found[found[:, 4] >= 0][:, 0].tolist() == left[::2].tolist()

    def test_boxes_stay_in_the_square(self) -> None:
        boxes = torch.tensor([[-3.0, -2.0, 5.0, 6.0], [60.0, 58.0, 70.0, 66.0]])
        (found,) = Select(64, 0.5)(outputs_of(boxes, torch.tensor([[0.9], [0.8]])))
        assert found[0, :4].tolist() == pytest.approx([0, 0, 5, 6], abs=1e-3)
        assert found[1, :4].tolist() == pytest.approx([60, 58, 64, 64], abs=1e-3)


class TestLosses:
    def targets(self, *boxes: tuple[float, ...]) -> Targets:
        corners = torch.tensor(boxes, dtype=torch.float32).reshape(1, -1, 4)
        return Targets(
            corners, torch.zeros(corners.shape[:2], dtype=torch.long), torch.ones(corners.shape[:2]) > 0
        )

    def outputs(self, corners: tuple[float, ...], score: float) -> Outputs:
        points = cell_middles(8, 8, 8, torch.device("cpu"))
        box = torch.tensor(corners)
        distances = torch.cat((points - box[:2], box[2:] - points), dim=1).clamp(0, 14) / 8
        steps = torch.arange(BINS)
        sides = (1 - (distances[..., None] - steps).abs()).clamp(min=1e-6).log()
        logits = torch.full((1, 64, 2), -6.0)
        inside = ((points > box[:2]) & (points < box[2:])).all(dim=1)
        logits[0, inside, 0] = torch.tensor(score).logit()
        return Outputs(logits, sides[None], points, torch.full((64,), 8.0))

    def test_a_right_answer_loses_less_than_each_wrong_one(self) -> None:
        wanted = (16.0, 16.0, 32.0, 32.0)
        right = losses(self.outputs(wanted, 0.9), self.targets(wanted))
        timid = losses(self.outputs(wanted, 0.1), self.targets(wanted))
        aside = losses(self.outputs((20.0, 20.0, 34.0, 34.0), 0.9), self.targets(wanted))
        assert right["classes"] < timid["classes"]
        assert right["boxes"] < aside["boxes"]
        assert right["sides"] < aside["sides"]

    def test_a_picture_without_boxes_teaches_that_there_are_none(self) -> None:
        none = Targets(torch.zeros((1, 1, 4)), torch.zeros((1, 1), dtype=torch.long), torch.zeros((1, 1)) > 0)
        sure = losses(self.outputs((16.0, 16.0, 32.0, 32.0), 0.9), none)
        unsure = losses(self.outputs((16.0, 16.0, 32.0, 32.0), 0.1), none)
        assert sure["classes"] > unsure["classes"] > 0
        assert sure["boxes"] == sure["sides"] == 0

    def test_a_box_smaller_than_a_cell_is_learnt(self) -> None:
        given = losses(self.outputs((17.0, 17.0, 19.0, 19.0), 0.5), self.targets((17.0, 17.0, 19.0, 19.0)))
        assert given["boxes"] > 0

    def test_giou_tells_boxes_apart_that_do_not_meet(self) -> None:
        box = torch.tensor([0.0, 0.0, 2.0, 2.0])
        near, far = torch.tensor([3.0, 0.0, 5.0, 2.0]), torch.tensor([9.0, 0.0, 11.0, 2.0])
        assert generalised_overlap(box, box) == 1
        assert 0 > generalised_overlap(box, near) > generalised_overlap(box, far) > -1


class TestPictures:
    def labelled(self, data: Dataset) -> Labelled:
        samples = data.train_defects[:8]
        return Labelled(samples, KINDS, Squares(samples, SIZE))

    def test_boxes_move_with_their_pictures(self, data: Dataset) -> None:
        """Wherever a box is moved to, the defect is dark or bright inside it, and not around it."""
        batch = self.labelled(data).draw(3, 16, VaryConfig(light=0), seed=0)
        seen = 0
        for pixels, boxes, used in zip(batch.pixels, batch.targets.boxes, batch.targets.used, strict=True):
            grey = pixels.float().mean(dim=2)
            for x1, y1, x2, y2 in boxes[used].round().int().tolist():
                inside = grey[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2]
                if inside.numel():
                    assert abs(inside.mean() - 120) > 50
                    seen += 1
        assert seen > 10

    def test_changes_lead_from_the_whole_picture(self, data: Dataset) -> None:
        labelled = self.labelled(data)
        batch = labelled.draw(0, 8, VaryConfig(scale=0, light=0), seed=1)
        for row, change, boxes, used in zip(
            batch.rows, batch.changes, batch.targets.boxes, batch.targets.used, strict=True
        ):
            first = labelled.boxes[row][0]
            ends = [change[:, :2] @ (first[k : k + 2] - 0.5) + change[:, 2] + 0.5 for k in (0, 2)]
            expected = [*np.minimum(*ends), *np.maximum(*ends)]
            assert min(np.abs(box - expected).max() for box in boxes[used].numpy()) < 1e-3

    def test_each_picture_has_its_turn(self, data: Dataset) -> None:
        labelled = self.labelled(data)
        rows = [labelled.draw(step, 4, VaryConfig(), seed=0).rows for step in range(4)]
        assert sorted(np.concatenate(rows).tolist()) == sorted([*range(8)] * 2)
        again = labelled.draw(2, 4, VaryConfig(), seed=0)
        assert torch.equal(again.pixels, labelled.draw(2, 4, VaryConfig(), seed=0).pixels)

    def test_windows_are_learnt_as_pictures(self, tmp_path: Path) -> None:
        data = load_dataset(f"voc:{draw(tmp_path / 'wide', 6, good=4, across=3)}")
        settings = WindowSettings(scale=1, step=64, align=32, even_exposure=False, fill="mean")
        samples = [*data.train_defects, *data.train_normals]
        labelled = Labelled(samples, KINDS, Squares(samples, SIZE, windows=settings))
        counts = [len(boxes) for boxes in labelled.boxes]
        assert 0 < counts.count(0) < len(counts) / 2
        assert len(labelled) > 3 * len(samples)
        for picture, boxes in zip(labelled.pictures, labelled.boxes, strict=True):
            assert picture.shape == (SIZE, SIZE, 3)
            for x1, y1, x2, y2 in boxes.round().astype(int).tolist():
                assert 0 <= x1 < x2 <= SIZE
                assert abs(picture[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].mean() - 120) > 50

    def test_windows_of_many_pictures_are_drawn(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = load_dataset(f"voc:{draw(tmp_path / 'wide', 6, across=3)}")
        settings = WindowSettings(scale=1, step=64, align=32, even_exposure=False, fill="mean")
        samples = data.train_defects
        monkeypatch.setattr("flawline.detectors.d3n.pictures.PIECES_BYTES", 2 * len(samples) * 3 * SIZE**2)
        labelled = Labelled(samples, KINDS, Squares(samples, SIZE, windows=settings))
        assert len(labelled) == 2 * len(samples)
        assert all(len(boxes) for boxes in labelled.boxes)

    def test_a_defect_without_label_is_refused(self, data: Dataset) -> None:
        sample = data.train_defects[0]
        with pytest.raises(DataError, match="class that is not to be learnt"):
            Labelled([sample], ["other"], Squares([sample], SIZE))


class TestTraining:
    def run(
        self, data: Dataset, steps: int, checkpoint: Path | None = None, stop: int | None = None
    ) -> dict[str, torch.Tensor]:
        teacher = load_teacher("builtin", layers=(2, 3))
        samples = data.train_defects[:6]
        config = recipe(steps=steps, batch=2).part("d3n")
        torch.manual_seed(0)
        detector = make(config, teacher, (0, 1), 2, SIZE)
        labelled = Labelled(samples, KINDS, Squares(samples, SIZE))
        train_detector(
            detector,
            teacher,
            labelled,
            config.training,
            seed=0,
            checkpoint=checkpoint,
            progress=self.stop_at(stop, steps),
        )
        return detector.state_dict()

    @staticmethod
    def stop_at(stop: int | None, steps: int):
        def progress(done: float, _loss: float) -> None:
            if stop is not None and done * steps > stop:
                raise KeyboardInterrupt

        return progress

    def test_one_seed_gives_one_result(self, data: Dataset) -> None:
        first, second = self.run(data, 3), self.run(data, 3)
        assert all(torch.equal(first[name], second[name]) for name in first)

    def test_a_finished_training_is_taken_from_its_checkpoint(self, data: Dataset, tmp_path: Path) -> None:
        path = tmp_path / "d3n.safetensors"
        first = self.run(data, 3, path)
        stamp = path.stat().st_mtime_ns
        again = self.run(data, 3, path)
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert path.stat().st_mtime_ns == stamp
        assert len(load_file(path)["losses"]) == 3

    def test_an_interrupted_training_goes_on_to_the_same_weights(
        self, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("flawline.training.loop.CHECKPOINT_SECONDS", -1)
        path = tmp_path / "d3n.safetensors"
        with pytest.raises(KeyboardInterrupt):
            self.run(data, 4, path, stop=2)
        resumed, unbroken = self.run(data, 4, path), self.run(data, 4)
        assert all(torch.equal(resumed[name], unbroken[name]) for name in unbroken)

    def test_frozen_layers_stay(self, data: Dataset) -> None:
        teacher = load_teacher("builtin", layers=(2, 3))
        samples = data.train_defects[:4]
        config = recipe(steps=2, batch=2, frozen=0.5).part("d3n")
        detector = make(config, teacher, (0, 1), 2, SIZE)
        train_detector(
            detector, teacher, Labelled(samples, KINDS, Squares(samples, SIZE)), config.training, seed=0
        )
        same = [
            torch.equal(mine, theirs)
            for mine, theirs in zip(detector.body.parameters(), teacher.backbone.parameters(), strict=True)
        ]
        assert same[0]
        assert not same[-1]
        assert sum(same) >= len(same) // 3

    def test_a_teacher_of_other_strides_is_refused(self) -> None:
        teacher = load_teacher("builtin", layers=(1, 2))
        with pytest.raises(RecipeError, match="gives 4, 8 at a size of 128"):
            make(recipe().part("d3n"), teacher, (0, 1), 2, SIZE)


class TestLineWithoutGoodPictures:
    def test_it_finds_and_names_what_it_learnt(self, fitted: FittedLine, data: Dataset) -> None:
        result = evaluate(fitted, data.test).result()
        assert result.boxes is not None
        assert result.map50 is not None
        assert result.map50 > 0.6
        assert result.boxes.right > 0.6 * result.boxes.labels
        assert fitted.settings.classes == KINDS

    def test_it_says_what_its_threshold_rests_on(self, fitted: FittedLine, data: Dataset) -> None:
        facts = fitted.calibration_facts()
        assert facts.method == "labelled"
        assert facts.precision is not None
        assert "nothing is promised of good pictures" in facts.promise
        assert fitted.data.labelled_defects + facts.normals == len(data.train_defects)

    def test_the_decision_is_that_of_the_threshold(self, fitted: FittedLine, data: Dataset) -> None:
        verdicts = fitted.inspect([sample.read_image() for sample in data.samples[:24]])
        for verdict in verdicts:
            assert verdict.is_defect == (verdict.score >= fitted.calibration.pixel_threshold)
            assert verdict.is_defect == bool((verdict.candidates[:, 4] >= 1).any())

    def test_another_budget_is_refused(self, fitted: FittedLine) -> None:
        with pytest.raises(DataError, match="calibrated without good pictures"):
            fitted.with_budget(0.1)

    def test_it_is_read_back(self, fitted: FittedLine, tmp_path: Path) -> None:
        part = fitted.model.parts[0]
        part.save(tmp_path)
        loaded = type(part).load(part.config, part.facts(fitted.shapes()), tmp_path)
        pixels = torch.randn((1, 3, SIZE, SIZE))
        one, other = (each.module.detector(pixels) for each in (part, loaded))
        torch.testing.assert_close(one.logits, other.logits)
        torch.testing.assert_close(one.boxes(), other.boxes(), atol=1e-3, rtol=1e-4)
        assert loaded.classes == KINDS

    def test_other_detectors_still_need_good_pictures(self, data: Dataset) -> None:
        with pytest.raises(DataError, match="has 0 normal training pictures"):
            fit("d3n+exdd", data, recipe(), seed=0)

    def test_too_few_labels_are_refused(self, data: Dataset) -> None:
        few = Dataset(data.name, data.root, data.train_defects[:6])
        with pytest.raises(DataError, match="has 6 labelled training pictures of 6 items and no good ones"):
            fit("d3n", few, recipe(), seed=0)


def test_with_good_pictures_the_promise_is_kept_on_them(tmp_path: Path) -> None:
    data = load_dataset(f"voc:{draw(tmp_path / 'line', 12, good=30)}")
    line = fit("d3n", data, recipe(steps=4), seed=0)
    assert line.calibration.method == "split"
    assert "good pictures like these" in line.calibration.promise
    assert line.data.learnt_normals + len(line.calibration.scores) == len(data.train_normals)


def test_a_line_without_labels_is_refused(tmp_path: Path) -> None:
    data = load_dataset(f"voc:{draw(tmp_path / 'line', 0, good=40)}")
    with pytest.raises(DataError, match="has none with boxes or masks"):
        fit("d3n", data, recipe(steps=4), seed=0)
