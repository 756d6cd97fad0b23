"""What must hold on a CUDA device; skipped where there is none."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from flawline.data import Dataset, load_dataset
from flawline.jobs.fit import fit
from flawline.recipe import Recipe, read_recipe
from flawline.synthesis.ddpm import DDPM, train_ddpm
from flawline.synthesis.ddpm_blend import DDPMConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture
def line() -> Dataset:
    return load_dataset("surfaces:woven,normals=40,test_normals=8,test_defects=8,train_defects=4,size=128")


def test_a_line_fitted_on_cuda_judges_as_one_fitted_on_the_cpu(line: Dataset) -> None:
    recipe = Recipe(size=128, false_alarm=0.05)
    pictures = [sample.read_image() for sample in line.test]
    scores = [
        [verdict.score for verdict in fit("exdd", line, recipe, seed=0, device=device).inspect(pictures)]
        for device in ("cpu", "cuda")
    ]
    difference = np.abs(np.subtract(*scores)) / scores[0]
    assert np.median(difference) < 0.01
    # Near ties choose other patches for a bank, and good pictures lie near to it.
    assert difference.max() < 0.2


@pytest.mark.parametrize("detector", ["sacd", "ddpm_ast", "sacd+exdd", "ddpm_ast+exdd"])
def test_a_student_trained_on_cuda_finds_defects(detector: str, line: Dataset) -> None:
    banks = {"positive": "synthetic", "synthetic_count": 8}
    student = {detector.partition("+")[0]: {"training": {"steps": 150}}}
    recipe = Recipe.model_validate({"size": 128, "false_alarm": 0.05, "exdd": banks, **student})
    fitted = fit(detector, line, recipe, seed=0, device="cuda")
    scores = [verdict.score for verdict in fitted.inspect([sample.read_image() for sample in line.test])]
    assert roc_auc_score([sample.is_defect for sample in line.test], scores) > 0.8


def test_a_training_on_cuda_goes_on_where_it_stopped(line: Dataset, tmp_path: Path) -> None:
    short = {"training": {"steps": 30}}
    recipe = Recipe.model_validate({"size": 128, "false_alarm": 0.05, "sacd": short})
    pictures = [sample.read_image() for sample in line.test]
    first, again = (
        fit("sacd", line, recipe, seed=0, device=device, checkpoint=tmp_path).inspect(pictures)
        for device in ("cuda", "cpu")  # nothing is left to train: the second only reads the state
    )
    np.testing.assert_allclose([v.score for v in first], [v.score for v in again], rtol=0.02)


def test_a_diffusion_model_trained_on_cuda_draws_the_same_on_the_cpu(line: Dataset, tmp_path: Path) -> None:
    config = DDPMConfig(side=32, steps=40, pool=2)
    pictures = [sample.read_image() for sample in line.train_normals[:8]]
    model = train_ddpm(pictures, config, seed=0, device="cuda")
    model.save(tmp_path)
    drawn = [DDPM.load(tmp_path, device).departures(2, 0, pictures) for device in ("cuda", "cpu")]
    differences = np.abs(np.subtract(*(np.stack(each).astype(int) for each in drawn)))
    assert differences.mean() < 2  # grey levels; sums are taken in another order
    assert np.stack(drawn[0]).std() > 1


def test_diffusion_on_cuda_teaches_a_detector_of_boxes(line: Dataset, tmp_path: Path) -> None:
    recipe = read_recipe(Path(__file__).parents[2] / "build/recipes/boxes_diffusion_small.yaml")
    first, again = (
        fit("d3n", line, recipe, seed=0, device=device, checkpoint=tmp_path, trial=True)
        for device in ("cuda", "cpu")  # nothing is left to train: the second only reads the state
    )
    facts = [each.model.parts[0].architecture["diffusion"]["repository"] for each in (first, again)]
    assert facts[0] == facts[1]
    one, other = (each.model.parts[0].module.state_dict() for each in (first, again))
    for name, value in one.items():
        torch.testing.assert_close(value.cpu(), other[name])
