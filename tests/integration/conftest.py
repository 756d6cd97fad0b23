"""Two small lines, built for real once per session; every server test works on them or on a copy."""

import pytest
from small_build import SIZE, Published, draw

from flawline.build import build
from flawline.recipe import Recipe


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """`woven` by default, with a positive bank; `metal` without one, by ONNX Runtime, not fused."""
    folder = tmp_path_factory.mktemp("published")
    data = {
        line: draw(family, folder / "data")
        for line, family in (("woven", "woven"), ("metal", "brushed_metal"))
    }
    recipe = Recipe.model_validate({"size": SIZE, "false_alarm": 0.05, "adapt": {"steps": 40}})
    plain = recipe.model_copy(update={"positive": "none", "parity_pictures": 4})
    repository = folder / "repository"
    built = {
        "woven": build("exdd", data["woven"], "woven", repository=repository, recipe=recipe),
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
