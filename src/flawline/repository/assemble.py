"""The Triton models of a line, as typed configurations: a pure function of its manifest."""

from flawline.artefact.manifest import Manifest
from flawline.repository import names
from flawline.repository.config import DynamicBatching, EnsembleStep, InstanceGroup, ModelConfig, Tensor
from flawline.scoring.settings import SETTINGS
from flawline.targets import TARGETS

MAX_BATCH = 8
"""Largest batch of every stage; the shared stages' hand-written configurations say the same."""

_IMAGE = Tensor(name="IMAGE", dtype="TYPE_STRING", dims=(1,))
_PIXELS = Tensor(name="PIXELS", dtype="TYPE_UINT8", dims=(-1, -1, 3))
_SETTINGS = Tensor(name="SETTINGS", dtype="TYPE_FP32", dims=(SETTINGS,))
_KEY = Tensor(name="ARTEFACT_KEY", dtype="TYPE_INT32", dims=(2,))

_BANK_KEY = {"ARTEFACT_KEY": "artefact_key"}
_CONSTANTS = {"SETTINGS": "settings", "CALIBRATION": "calibration"}
"""Tensors of stages, and their names within the ensembles."""


def line_models(manifest: Manifest) -> dict[str, ModelConfig]:
    """All models of a line's version, pinned to that version, by name."""
    models = [_discrepancy(manifest), _ensemble(manifest, _IMAGE), _ensemble(manifest, _PIXELS)]
    if manifest.fused:
        models.append(_fused(manifest))
    return {model.name: model for model in models}


def native_discrepancy(manifest: Manifest) -> ModelConfig:
    """The graph stage for a server with Triton's own backends (`--model-config-name=native`).

    Raises:
        RecipeError: no target of the manifest's name is registered.

    """
    native = TARGETS.get(
        manifest.target
    ).native  # what the target needs may be missing here: nothing runs yet
    return _discrepancy(manifest).model_copy(
        update={
            "backend": native.backend,
            "platform": native.platform,
            "default_model_filename": native.file,
            "instance_groups": (InstanceGroup(count=1, kind=native.kind),),
        }
    )


def _found(manifest: Manifest) -> tuple[Tensor, ...]:
    """Outputs of the graph beside its constants: those of the parts that the line has."""
    found = []
    if manifest.discrepancy is not None:
        found.append(Tensor(name="DISCREPANCY", dtype="TYPE_FP32", dims=manifest.discrepancy))
    if manifest.patches:
        found.append(
            Tensor(name="EMBEDDING", dtype="TYPE_FP32", dims=(manifest.patches, manifest.dimensions))
        )
    return tuple(found)


def _discrepancy(manifest: Manifest) -> ModelConfig:
    size = manifest.size
    return ModelConfig(
        name=names.discrepancy(manifest.line),
        backend="python",
        max_batch_size=MAX_BATCH,
        inputs=(Tensor(name="PICTURE", dtype="TYPE_UINT8", dims=(size, size, 3)),),
        outputs=(
            *_found(manifest),
            _KEY,
            _SETTINGS,
            Tensor(name="CALIBRATION", dtype="TYPE_FP32", dims=(len(manifest.calibration.scores),)),
        ),
        dynamic_batching=DynamicBatching(),
        instance_groups=(InstanceGroup(count=1, kind="KIND_CPU"),),
        versions=(manifest.version,),
    )


def _verdict(manifest: Manifest) -> tuple[Tensor, ...]:
    size = manifest.size
    return (
        Tensor(name="SCORE", dtype="TYPE_FP32", dims=(1,)),
        Tensor(name="P_VALUE", dtype="TYPE_FP32", dims=(1,)),
        Tensor(name="IS_DEFECT", dtype="TYPE_BOOL", dims=(1,)),
        Tensor(name="ANOMALY_MAP", dtype="TYPE_FP32", dims=(size, size)),
        Tensor(name="MASK", dtype="TYPE_UINT8", dims=(size, size)),
        Tensor(name="BOXES", dtype="TYPE_FP32", dims=(-1, 6)),
    )


def _ensemble(manifest: Manifest, door: Tensor) -> ModelConfig:
    """Preprocess -> graph -> ratio_scoring for lines with banks -> postprocess, for one of the two front doors."""
    verdict = _verdict(manifest)
    parts = {tensor.name: tensor.name.lower() for tensor in _found(manifest)}
    steps = [
        EnsembleStep(
            model="preprocess",
            inputs={door.name: door.name},
            outputs={f"PICTURE_{manifest.size}": "picture", "GEOMETRY": "geometry"},
        ),
        EnsembleStep(
            model=names.discrepancy(manifest.line),
            version=manifest.version,
            inputs={"PICTURE": "picture"},
            outputs={**parts, **(_BANK_KEY if manifest.patches else {}), **_CONSTANTS},
        ),
    ]
    evidence = {name: outer for name, outer in parts.items() if name == "DISCREPANCY"}
    if manifest.patches:
        ratio = {"RATIO_MAP": "ratio_map", "RATIO_SCORE": "ratio_score"}
        evidence |= ratio
        steps.append(
            EnsembleStep(
                model="ratio_scoring",
                inputs={
                    "EMBEDDING": "embedding",
                    **_BANK_KEY,
                    "SETTINGS": "settings",
                    "GEOMETRY": "geometry",
                },
                outputs=ratio,
            )
        )
    steps.append(
        EnsembleStep(
            model="postprocess",
            inputs={**evidence, **_CONSTANTS, "GEOMETRY": "geometry"},
            outputs={tensor.name: tensor.name for tensor in verdict},
        )
    )
    return ModelConfig(
        name=manifest.line if door is _IMAGE else names.pixels(manifest.line),
        platform="ensemble",
        max_batch_size=MAX_BATCH,
        inputs=(door,),
        outputs=verdict,
        ensemble_steps=tuple(steps),
        versions=(manifest.version,),
    )


def _fused(manifest: Manifest) -> ModelConfig:
    doors = (door.model_copy(update={"optional": True, "ragged": True}) for door in (_IMAGE, _PIXELS))
    return ModelConfig(
        name=names.fused(manifest.line),
        backend="python",
        max_batch_size=MAX_BATCH,
        inputs=tuple(doors),
        outputs=_verdict(manifest),
        dynamic_batching=DynamicBatching(),
        instance_groups=(InstanceGroup(count=1, kind="KIND_CPU"),),
        versions=(manifest.version,),
    )
