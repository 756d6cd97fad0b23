"""New versions of a published line without fitting: each goes through the same parity gate, on a real server."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from asking import assert_same, image, server_of
from small_build import Published
from tritonclient.grpc import InferenceServerClient

from flawline.data import Dataset, digests
from flawline.detectors.fitted import FittedLine
from flawline.errors import ArtefactError, DataError, RecipeError
from flawline.jobs.derive import calibrate_line, compile_line, teach_line
from flawline.repository.publish import list_lines, live_artefact, live_version, rollback
from flawline.scoring.verdict import Decision

pytestmark = [pytest.mark.server, pytest.mark.timeout(900)]


@pytest.fixture
def repository(learnt: Published, tmp_path: Path) -> Path:
    """A copy of the lines, with nothing else in reach: no data, no recipe, no teacher's folder."""
    return Path(shutil.copytree(learnt.repository, tmp_path / "repository"))


def only(repository: Path, line: str) -> Path:
    """Leave one line in a copy of the lines: each model is a process that a server has to start."""
    for other in {status.line for status in list_lines(repository)} - {line}:
        for model in repository.glob(f"{other}*"):
            shutil.rmtree(model)
    return repository


def test_a_loaded_line_answers_bit_for_bit_as_before(learnt: Published) -> None:
    """What eager torch said of each picture at the build, line by line."""
    for line, released in learnt.built.items():
        loaded, manifest = FittedLine.load(learnt.artefact(line))
        assert manifest.line == line
        samples = learnt.data[line].test
        step = len(samples) // len(released.evaluation.rows)
        pictures = [sample.read_image() for sample in samples[::step]]
        # In the batches of the build: torch may round otherwise in a batch of another length.
        starts = range(0, len(pictures), loaded.batch)
        verdicts = [v for start in starts for v in loaded.inspect(pictures[start : start + loaded.batch])]
        assert [v.score for v in verdicts] == [row.score for row in released.evaluation.rows]
        assert [v.is_defect for v in verdicts] == [row.called for row in released.evaluation.rows]


def test_a_line_is_compiled_for_another_target(repository: Path, learnt: Published) -> None:
    released = compile_line(repository, "pair", "onnxruntime")
    manifest = released.manifest
    assert (manifest.version, manifest.target) == (2, "onnxruntime")
    assert manifest.origin is not None
    assert manifest.origin.change == "compiled for onnxruntime"
    assert manifest.metrics == learnt.built["pair"].manifest.metrics, "it is the same line"
    assert all(fact.decisions_flipped == 0 and fact.pictures == 8 for fact in manifest.parity)
    assert live_version(repository, "pair") == 2
    before, _ = FittedLine.load(learnt.artefact("pair"))
    after, _ = FittedLine.load(released.folder)
    picture = [learnt.data["pair"].test[-1].read_image()]
    assert after.inspect(picture)[0].score == before.inspect(picture)[0].score
    with (
        server_of(only(repository, "pair")) as server,
        InferenceServerClient(server.grpc_url) as client,
    ):
        result = client.infer("pair", [image(learnt.data["pair"].test[-1].image.read_bytes())])
        assert result.as_numpy("SCORE").item() == pytest.approx(after.inspect(picture)[0].score, rel=1e-4)
    assert rollback(repository, "pair", None).version == 1


def test_a_line_gets_another_budget(repository: Path, learnt: Published) -> None:
    """At half of the pictures almost all defects are called; scores stay."""
    before = learnt.built["alone"]
    released = calibrate_line(repository, "alone", false_alarm=0.5, dataset=None)
    facts = released.manifest.calibration
    assert (facts.false_alarm, facts.look_again) == (0.5, 0.5), "the band of 5 % is given up, and said so"
    assert released.manifest.calibration.normals == before.manifest.calibration.normals
    assert released.manifest.metrics is None, "the pictures that it keeps have no labels"
    old, _ = FittedLine.load(learnt.artefact("alone"))
    new, _ = FittedLine.load(released.folder)
    pictures = [sample.read_image() for sample in learnt.data["alone"].test]
    pairs = list(zip(old.inspect(pictures), new.inspect(pictures), strict=True))
    assert [a.score for a, _ in pairs] == [b.score for _, b in pairs]
    assert [a.p_value for a, _ in pairs] == [b.p_value for _, b in pairs]
    assert [b.is_defect for _, b in pairs] == [b.p_value <= 0.5 for _, b in pairs]
    assert new.settings.pixel_threshold < old.settings.pixel_threshold


def test_a_line_gets_another_second_budget(repository: Path, learnt: Published) -> None:
    """Of the pictures between the two budgets some are looked at again, through every door; boxes show where."""
    released = calibrate_line(repository, "woven", false_alarm=0.1, look_again=0.7)
    facts = released.manifest.calibration
    assert (facts.false_alarm, facts.look_again) == (0.1, 0.7)
    assert "at most 70.00%" in facts.promise or "about 70.00%" in facts.promise
    assert all(fact.decisions_flipped == 0 for fact in released.manifest.parity)
    line, _ = FittedLine.load(released.folder)
    samples = learnt.data["woven"].test
    verdicts = line.inspect([sample.read_image() for sample in samples])
    assert {verdict.decision for verdict in verdicts} == set(Decision)
    with (
        server_of(only(repository, "woven")) as server,
        InferenceServerClient(server.grpc_url) as client,
    ):
        for sample, verdict in zip(samples, verdicts, strict=True):
            result = client.infer("woven_fused", [image(sample.image.read_bytes())])
            assert_same(result, 0, verdict)
            shown = (result.as_numpy("BOXES")[0, :, 4] >= 0).any()  # type: ignore[index]
            assert shown or verdict.decision is Decision.PASS
            assert bool(result.as_numpy("MASK").any()) == bool(verdict.mask.any())  # type: ignore[union-attr]


def test_a_line_is_calibrated_on_new_normals(repository: Path, learnt: Published, tmp_path: Path) -> None:
    """Good pictures kept apart stand for those of another day; one that was learnt from is refused."""
    data = learnt.data["pair"]
    _, manifest = FittedLine.load(live_artefact(repository, "pair"))
    seen = set(manifest.data.learnt)
    unseen = [s for s in data.train_normals if not seen.intersection(digests([s]))]
    assert len(seen) + len(unseen) == len(data.train_normals)
    other = Dataset(
        "another_day",
        data.root,
        tuple(
            type(s)(s.image, s.defect_class, s.mask, s.group, "train" if not s.is_defect else "test")
            for s in (*unseen, *data.test)
        ),
    )
    released = calibrate_line(repository, "pair", dataset=other, false_alarm=0.2)
    facts = released.manifest.calibration
    assert (facts.method, facts.normals, facts.false_alarm) == ("split", 8 + len(unseen), 0.2)
    new, _ = FittedLine.load(released.folder)
    scores = sorted(v.score for v in new.inspect([s.read_image() for s in other.train_normals]))
    np.testing.assert_allclose(new.calibration.scores, scores, rtol=1e-6)
    assert released.manifest.metrics is not None
    assert released.manifest.metrics["defects"] == 8
    one = next(s for s in data.train_normals if s not in unseen)
    copy = tmp_path / "renamed.png"
    copy.write_bytes(one.image.read_bytes())
    mixed = replace(other, samples=(*other.samples, replace(one, image=copy)))
    for refused, count in ((data, f"{len(seen)} of the"), (mixed, "1 of the")):
        with pytest.raises(DataError, match=f"'pair' learnt from {count}.* that it has not seen"):
            calibrate_line(repository, "pair", dataset=refused)
    few = replace(other, samples=other.train_normals[:3])
    with pytest.raises(
        DataError, match="has 3 normal training pictures; at least 10 are needed to calibrate"
    ):
        calibrate_line(repository, "pair", dataset=few)


def test_a_bank_learns_more_patches(repository: Path, learnt: Published) -> None:
    """A picture that the bank has seen is no longer far from it; the calibration stays."""
    data = learnt.data["woven"]
    picture = next(sample for sample in data.test if sample.is_defect)
    old, _ = FittedLine.load(learnt.artefact("woven"))
    released = teach_line(repository, "woven", [picture], defects=data.train_defects[:1])
    new, manifest = FittedLine.load(released.folder)
    assert manifest.origin is not None
    assert manifest.origin.change == "taught 1 more good and 1 more defect pictures"
    assert new.inspect([picture.read_image()])[0].score < 1e-3 * old.inspect([picture.read_image()])[0].score
    np.testing.assert_array_equal(new.calibration.scores, old.calibration.scores)
    before, after = (line.model.parts[0] for line in (old, new))
    assert len(after.negative.vectors) > len(before.negative.vectors)  # type: ignore[attr-defined]
    assert len(after.positive.vectors) > len(before.positive.vectors)  # type: ignore[attr-defined]


def test_what_cannot_be_done_is_said_before_anything_changes(repository: Path) -> None:
    for attempt, error, said in (
        (lambda: compile_line(repository, "nobody", "openvino"), RecipeError, "has no live line 'nobody'"),
        (lambda: compile_line(repository, "pair", "abacus"), RecipeError, "unknown target 'abacus'"),
        (lambda: calibrate_line(repository, "pair"), RecipeError, "nothing to calibrate"),
        (lambda: calibrate_line(repository, "pair", false_alarm=1.5), RecipeError, "--false-alarm 1.5"),
        (
            lambda: calibrate_line(repository, "pair", look_again=0.05),
            RecipeError,
            "out of order: --look-again 0.05 is below the false-alarm budget of 0.1; give a larger one",
        ),
        (lambda: teach_line(repository, "pair", []), RecipeError, "nothing to teach"),
    ):
        with pytest.raises(error, match=said):
            attempt()
    weights = next(repository.glob("pair_discrepancy/1/sacd.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ArtefactError, match=r"sacd\.safetensors: damaged"):
        compile_line(repository, "pair", "onnxruntime")
    assert live_version(repository, "pair") == 1
    assert {status.line: status.versions for status in list_lines(repository)}["pair"] == (1,)


def test_a_line_without_banks_cannot_be_taught(repository: Path, learnt: Published) -> None:
    with pytest.raises(RecipeError, match="no part of line 'alone' can be taught"):
        teach_line(repository, "alone", learnt.data["alone"].test[:1])
