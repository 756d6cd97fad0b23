"""What must hold on a CUDA device; skipped where there is none."""

import numpy as np
import pytest
import torch

from flawline.data import load_dataset
from flawline.fitting import fit
from flawline.recipe import Recipe

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_a_line_fitted_on_cuda_judges_as_one_fitted_on_the_cpu() -> None:
    dataset = load_dataset("surfaces:woven,normals=40,test_normals=8,test_defects=8,train_defects=4,size=128")
    recipe = Recipe(size=128, false_alarm=0.05)
    pictures = [sample.read_image() for sample in dataset.test]
    scores = [
        [verdict.score for verdict in fit("exdd", dataset, recipe, seed=0, device=device).inspect(pictures)]
        for device in ("cpu", "cuda")
    ]
    np.testing.assert_allclose(*scores, rtol=0.05)  # the coresets may differ by near ties
