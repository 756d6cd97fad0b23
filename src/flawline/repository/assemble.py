"""The Triton models of a line, as typed configurations: a pure function of its manifest."""

import json

from flawline.artefact.manifest import Manifest, PartFacts
from flawline.repository import names
from flawline.repository.model_config import (
    DType,
    DynamicBatching,
    EnsembleStep,
    InstanceGroup,
    ModelConfig,
    Tensor,
)
from flawline.scoring.picture import EIGHT
from flawline.targets.target import Native
from flawline_client.wire import CLASSES

MAX_BATCH = 8
"""Largest batch of every stage; the shared stages' hand-written configurations say the same. See `_most`."""

BATCHING = DynamicBatching()
"""How every stage waits; the shared stages' hand-written configurations say the same.

Without a policy for its queue: where there is one, Triton (2.51) does not wake its batcher for a request that comes
while the stage works or has just answered, and lets it wait for the next request, or for half a second.
"""

_IMAGE = Tensor(name="IMAGE", dtype="TYPE_STRING", dims=(1,))
_PIXELS = Tensor(name="PIXELS", dtype="TYPE_UINT8", dims=(-1, -1, 3))
_DEEP_PIXELS = _PIXELS.model_copy(update={"dtype": "TYPE_UINT16"})
"""The same of a line whose pictures fill more than eight bits."""
_ALWAYS = ("ARTEFACT_KEY", "GEOMETRY")
"""Tensors that every stage after the graph takes."""
_DTYPES: dict[str, DType] = {"FP32": "TYPE_FP32", "INT32": "TYPE_INT32"}
_KEY = Tensor(name="ARTEFACT_KEY", dtype="TYPE_INT32", dims=(2,))


def line_models(manifest: Manifest) -> dict[str, ModelConfig]:
    """All models of a line's version, pinned to that version, by name."""
    models = [_discrepancy(manifest), _ensemble(manifest, _IMAGE), _ensemble(manifest, _pixels(manifest))]
    if manifest.fused:
        models.append(_fused(manifest))
    return {model.name: model for model in models}


def native_discrepancy(manifest: Manifest, native: Native) -> ModelConfig:
    """The graph stage for a server with Triton's own backend for it (`--model-config-name=native`).

    No backend cuts pictures into windows: the Python stage runs the graph of such a line everywhere.
    """
    if manifest.windows is not None:
        return _discrepancy(manifest)
    return _discrepancy(manifest).model_copy(
        update={
            "backend": native.backend,
            "platform": native.platform,
            "default_model_filename": native.file,
            "instance_groups": (InstanceGroup(count=1, kind=native.kind),),
        }
    )


def _parameters(manifest: Manifest) -> dict[str, str]:
    """Names of the line's classes as a JSON list, where clients look for them."""
    return {CLASSES: json.dumps(manifest.classes, ensure_ascii=False)} if manifest.classes else {}


def _found(part: PartFacts, manifest: Manifest) -> tuple[Tensor, ...]:
    """Outputs that a part adds to the graph. Grids of windows are stitched, and as large as the picture asks."""
    any_grid = (-1, -1) if manifest.windows is not None else ()
    return tuple(
        Tensor(
            name=output.name,
            dtype=_DTYPES[output.dtype],
            dims=(*any_grid, *output.dims[len(any_grid) :]),
        )
        for output in part.outputs
    )


def _most(manifest: Manifest) -> int:
    """Largest batch of the line's own models. A picture in windows is a batch, and memory, of its own."""
    return MAX_BATCH if manifest.windows is None else 1


def _pixels(manifest: Manifest) -> Tensor:
    """Raw pixels as the line takes them."""
    return _PIXELS if manifest.bits == EIGHT else _DEEP_PIXELS


def _deep(manifest: Manifest) -> str:
    """What the names of `preprocess`' tensors begin with where the line's pictures fill more than eight bits."""
    return "" if manifest.bits == EIGHT else "DEEP_"


def _picture(manifest: Manifest) -> str:
    """Output of `preprocess` that the line's graph takes."""
    return _deep(manifest) + (f"PICTURE_{manifest.size}" if manifest.windows is None else "PICTURE")


def _discrepancy(manifest: Manifest) -> ModelConfig:
    sides = (manifest.size,) * 2 if manifest.windows is None else (-1, -1)
    return ModelConfig(
        name=names.discrepancy(manifest.line),
        backend="python",
        max_batch_size=_most(manifest),
        inputs=(Tensor(name="PICTURE", dtype=_pixels(manifest).dtype, dims=(*sides, 3)),),
        outputs=(*(tensor for part in manifest.parts for tensor in _found(part, manifest)), _KEY),
        dynamic_batching=BATCHING,
        instance_groups=(InstanceGroup(count=1, kind="KIND_CPU"),),
        versions=(manifest.version,),
    )


def _verdict(manifest: Manifest) -> tuple[Tensor, ...]:
    sides = (manifest.size,) * 2 if manifest.windows is None else (-1, -1)
    return (
        Tensor(name="SCORE", dtype="TYPE_FP32", dims=(1,)),
        Tensor(name="P_VALUE", dtype="TYPE_FP32", dims=(1,)),
        Tensor(name="VERDICT", dtype="TYPE_INT32", dims=(1,)),
        Tensor(name="IS_DEFECT", dtype="TYPE_BOOL", dims=(1,)),
        Tensor(name="ANOMALY_MAP", dtype="TYPE_FP32", dims=sides),
        Tensor(name="MASK", dtype="TYPE_UINT8", dims=sides),
        Tensor(name="BOXES", dtype="TYPE_FP32", dims=(-1, 6)),
    )


def _ensemble(manifest: Manifest, door: Tensor) -> ModelConfig:
    """Preprocess -> graph -> the stage of each part that has one -> postprocess, for one of the two front doors."""
    verdict = _verdict(manifest)
    outputs = [output.name for part in manifest.parts for output in part.outputs]
    steps = [
        EnsembleStep(
            model="preprocess",
            inputs={door.name if door is _IMAGE else _deep(manifest) + door.name: door.name},
            outputs={_picture(manifest): "picture", "GEOMETRY": "geometry"},
        ),
        EnsembleStep(
            model=names.discrepancy(manifest.line),
            version=manifest.version,
            inputs={"PICTURE": "picture"},
            outputs=_inner(*outputs, "ARTEFACT_KEY"),
        ),
    ]
    findings: dict[str, str] = {}
    for number, part in enumerate(manifest.parts, start=1):
        if part.stage is not None:
            taken = _inner(*(output.name for output in part.outputs), *_ALWAYS)
            steps.append(EnsembleStep(model=part.stage, inputs=taken, outputs=_inner(*part.gives.values())))
        findings |= {f"{role.upper()}_{number}": name.lower() for role, name in part.gives.items()}
    steps.append(
        EnsembleStep(
            model="postprocess",
            inputs={**findings, **_inner(*_ALWAYS)},
            outputs={tensor.name: tensor.name for tensor in verdict},
        )
    )
    return ModelConfig(
        name=manifest.line if door is _IMAGE else names.pixels(manifest.line),
        platform="ensemble",
        max_batch_size=_most(manifest),
        inputs=(door,),
        outputs=verdict,
        ensemble_steps=tuple(steps),
        parameters=_parameters(manifest),
        versions=(manifest.version,),
    )


def _inner(*stage_tensors: str) -> dict[str, str]:
    """Tensors of a stage, and their names within the ensembles: the same in lower case."""
    return {name: name.lower() for name in stage_tensors}


def _fused(manifest: Manifest) -> ModelConfig:
    doors = (
        door.model_copy(update={"optional": True, "ragged": True}) for door in (_IMAGE, _pixels(manifest))
    )
    return ModelConfig(
        name=names.fused(manifest.line),
        backend="python",
        max_batch_size=_most(manifest),
        inputs=tuple(doors),
        outputs=_verdict(manifest),
        dynamic_batching=BATCHING,
        instance_groups=(InstanceGroup(count=1, kind="KIND_CPU"),),
        parameters=_parameters(manifest),
        versions=(manifest.version,),
    )
