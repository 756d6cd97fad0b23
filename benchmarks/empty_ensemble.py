"""An ensemble that moves what a line moves and computes nothing: the floor under every served figure."""

import shutil
from pathlib import Path

from flawline.artefact.manifest import Manifest
from flawline.repository.config import DynamicBatching, EnsembleStep, InstanceGroup, ModelConfig, Tensor

LINE = "empty"
STAGES = ("empty_first", "empty_second")
_MAX_BATCH = 8
_BOXES = 8


def write_empty_ensemble(repository: Path, manifest: Manifest) -> None:
    """Write model `empty` and its two Python stages into `repository`.

    It takes IMAGE and answers the tensors of the line that `manifest` describes, in the same shapes; between the
    stages travels a tensor as large as that line's EMBEDDING, or its DISCREPANCY if it has no banks: the largest
    that its stages exchange.
    """
    image = Tensor(name="IMAGE", dtype="TYPE_STRING", dims=(1,))
    largest = (manifest.patches, manifest.dimensions) if manifest.patches else manifest.discrepancy
    between = Tensor(name="EMBEDDING", dtype="TYPE_FP32", dims=largest or ())
    verdict = (
        Tensor(name="SCORE", dtype="TYPE_FP32", dims=(1,)),
        Tensor(name="P_VALUE", dtype="TYPE_FP32", dims=(1,)),
        Tensor(name="IS_DEFECT", dtype="TYPE_BOOL", dims=(1,)),
        Tensor(name="ANOMALY_MAP", dtype="TYPE_FP32", dims=(manifest.size, manifest.size)),
        Tensor(name="MASK", dtype="TYPE_UINT8", dims=(manifest.size, manifest.size)),
        Tensor(name="BOXES", dtype="TYPE_FP32", dims=(_BOXES, 6)),
    )
    first, second = STAGES
    _write(repository, _stage(first, image, (between,)))
    _write(repository, _stage(second, between, verdict))
    for stage in STAGES:
        shutil.copy(Path(__file__).with_name("empty_stage.py"), repository / stage / "1" / "model.py")
    ensemble = ModelConfig(
        name=LINE,
        platform="ensemble",
        max_batch_size=_MAX_BATCH,
        inputs=(image,),
        outputs=verdict,
        ensemble_steps=(
            EnsembleStep(model=first, inputs={"IMAGE": "IMAGE"}, outputs={"EMBEDDING": "embedding"}),
            EnsembleStep(
                model=second,
                inputs={"EMBEDDING": "embedding"},
                outputs={tensor.name: tensor.name for tensor in verdict},
            ),
        ),
    )
    _write(repository, ensemble)


def _stage(name: str, takes: Tensor, gives: tuple[Tensor, ...]) -> ModelConfig:
    return ModelConfig(
        name=name,
        backend="python",
        max_batch_size=_MAX_BATCH,
        inputs=(takes,),
        outputs=gives,
        dynamic_batching=DynamicBatching(),
        instance_groups=(InstanceGroup(count=1, kind="KIND_CPU"),),
    )


def _write(repository: Path, config: ModelConfig) -> None:
    (repository / config.name / "1").mkdir(parents=True)
    (repository / config.name / "config.pbtxt").write_text(config.to_pbtxt())
