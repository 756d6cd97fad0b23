"""An ensemble that moves what a line moves and computes nothing: the floor under every served figure."""

import math
import shutil
from pathlib import Path

from flawline.artefact.manifest import Manifest
from flawline.repository import names
from flawline.repository.assemble import MAX_BATCH, line_models
from flawline.repository.model_config import DynamicBatching, EnsembleStep, InstanceGroup, ModelConfig, Tensor

LINE = "empty"
STAGES = ("empty_first", "empty_second")
_BOXES = 8
"""Rows where the line itself answers any number."""


def write_empty_ensemble(repository: Path, manifest: Manifest) -> None:
    """Write model `empty` and its two Python stages into `repository`.

    It takes IMAGE and answers the tensors of the line that `manifest` describes, in the same shapes; between the
    stages travels a tensor as large as the largest that the line's graph gives.
    """
    models = line_models(manifest)
    (image,) = models[manifest.line].inputs
    between = max(models[names.discrepancy(manifest.line)].outputs, key=lambda tensor: math.prod(tensor.dims))
    verdict = tuple(
        tensor.model_copy(update={"dims": tuple(_BOXES if side < 0 else side for side in tensor.dims)})
        for tensor in models[manifest.line].outputs
    )
    first, second = STAGES
    _write(repository, _stage(first, image, (between,)))
    _write(repository, _stage(second, between, verdict))
    for stage in STAGES:
        shutil.copy(Path(__file__).with_name("empty_stage.py"), repository / stage / "1" / "model.py")
    ensemble = ModelConfig(
        name=LINE,
        platform="ensemble",
        max_batch_size=MAX_BATCH,
        inputs=(image,),
        outputs=verdict,
        ensemble_steps=(
            EnsembleStep(model=first, inputs={image.name: image.name}, outputs={between.name: "between"}),
            EnsembleStep(
                model=second,
                inputs={between.name: "between"},
                outputs={tensor.name: tensor.name for tensor in verdict},
            ),
        ),
    )
    _write(repository, ensemble)


def _stage(name: str, takes: Tensor, gives: tuple[Tensor, ...]) -> ModelConfig:
    return ModelConfig(
        name=name,
        backend="python",
        max_batch_size=MAX_BATCH,
        inputs=(takes,),
        outputs=gives,
        dynamic_batching=DynamicBatching(),
        instance_groups=(InstanceGroup(count=1, kind="KIND_CPU"),),
    )


def _write(repository: Path, config: ModelConfig) -> None:
    (repository / config.name / "1").mkdir(parents=True)
    (repository / config.name / "config.pbtxt").write_text(config.to_pbtxt())
