"""Small lines, built for real once per session; every server test works on them or on a copy."""

import shutil

import pytest
from small_build import BUILTIN, LARGER, LEARNT, SIZE, Published, draw

from flawline.jobs.build import build
from flawline.recipe import Recipe

pytest.register_assert_rewrite("asking")


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """`woven` with a positive bank and the default teacher, tuned; `metal` by ONNX Runtime, not fused.

    Good pictures of `metal` are tried on `woven` as those of another day would be.
    """
    folder = tmp_path_factory.mktemp("published")
    data = {
        line: draw(family, folder / "data")
        for line, family in (("woven", "woven"), ("metal", "brushed_metal"))
    }
    recipe = Recipe.model_validate({"size": SIZE, "false_alarm": 0.05, "adapt": {"steps": 8}})
    plain = Recipe.model_validate(
        {**BUILTIN, "size": SIZE, "false_alarm": 0.05, "positive": "none", "parity_pictures": 4}
    )
    repository = folder / "repository"
    metal = [sample for sample in data["metal"].test if not sample.is_defect]
    built = {
        "woven": build("exdd", data["woven"], "woven", repository=repository, recipe=recipe, holdout=metal),
        "metal": build(
            "exdd",
            data["metal"],
            "metal",
            repository=repository,
            recipe=plain,
            target="onnxruntime",
            fused=False,
        ),
    }
    return Published(repository, built, data)


@pytest.fixture(scope="session")
def learnt(published: Published, tmp_path_factory: pytest.TempPathFactory) -> Published:
    """One of each kind: `woven` as published; `pair`, a student beside banks; `alone`, a student without banks."""
    repository = tmp_path_factory.mktemp("learnt") / "repository"
    for model in published.repository.glob("woven*"):
        shutil.copytree(model, repository / model.name)
    data = {
        "woven": published.data["woven"],
        "pair": published.data["woven"],
        "alone": published.data["metal"],
    }
    built = {"woven": published.built["woven"]}
    for line, detector, size in (("pair", "sacd+exdd", SIZE), ("alone", "ddpm_ast", LARGER)):
        recipe = Recipe.model_validate({**LEARNT, "size": size})
        built[line] = build(detector, data[line], line, repository=repository, recipe=recipe)
    return Published(repository, built, data)
