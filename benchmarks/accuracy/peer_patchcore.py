"""Fit anomalib's PatchCore on a job of peer.py; runs in the environment of peer_requirements.txt.

Its features come from our teacher, and the filling of the model square is neither learned nor scored, as in our
own runs. Pooling, coreset, distances, scores and smoothing are anomalib's own.
"""

import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from anomalib.models.image.patchcore.torch_model import PatchcoreModel
from numpy.typing import NDArray
from peer_job import Answer, AnswerFacts, Job, JobFacts, read_job, write
from torch import Tensor, nn

import flawline  # noqa: F401  first: it turns the usage reports of other libraries off
from flawline.progress import track
from flawline.teachers import Teacher, load_teacher

BATCH = 8
KIB = 1024


class TeacherLayers(nn.Module):
    """Our teacher in the place of anomalib's feature extractor: a dictionary of feature maps, by layer name."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self.teacher = teacher
        self.names = [f"layer{number}" for number in teacher.layers]

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """Turn FP32 [B, 3, S, S], 0 to 255, into FP32 [B, C_k, H_k, W_k] each; the teacher normalises."""
        return dict(zip(self.names, self.teacher(pictures.permute(0, 2, 3, 1)), strict=True))


class Patchcore(PatchcoreModel):
    """anomalib's model with our teacher, whose picture scores look only at patches `inside` the picture."""

    def __init__(self, teacher: Teacher, neighbours: int) -> None:
        """Take the teacher's layers; PatchCore's support is the `neighbours` entries next to the nearest."""
        layers = TeacherLayers(teacher)
        # anomalib takes a module for a backbone only where torch.fx can trace it, which transformers' are not.
        super().__init__(
            layers=("layer2", "layer3"), backbone="resnet18", pre_trained=False, num_neighbors=neighbours
        )
        self.layers, self.backbone, self.feature_extractor = layers.names, "flawline", layers
        self.inside = torch.empty(0, dtype=torch.bool)

    def compute_anomaly_score(self, patch_scores: Tensor, locations: Tensor, embedding: Tensor) -> Tensor:
        """FP32 [B] of patch scores [B, P], those outside the picture left out."""
        inside = torch.where(self.inside, patch_scores, -1.0)
        score: Tensor = super().compute_anomaly_score(inside, locations, embedding)
        return score


def answer(job: Job) -> Answer:
    """Fit, score the held-out normals by banks without them, then the test pictures."""
    started = time.monotonic()
    torch.manual_seed(job.facts.seed)
    np.random.seed(job.facts.seed)  # noqa: NPY002 - anomalib draws its projection from the global generator
    layers = None if job.facts.layers is None else tuple(job.facts.layers)
    teacher = load_teacher(job.facts.teacher, layers=layers, even_exposure=job.facts.even_exposure)
    if teacher.fingerprint != job.facts.fingerprint:
        msg = f"teacher {job.facts.teacher} has other weights in {sys.prefix} than where the job was made"
        raise SystemExit(msg)
    model = Patchcore(teacher, job.facts.neighbours)
    embedded = _embed(model, job)
    rows = set(range(len(job.train)))
    parts = []
    for number, held_out in enumerate(job.facts.held_out, start=1):
        _fill_bank(model, [embedded[row] for row in sorted(rows - set(held_out))], job.facts)
        what = f"calibrating, {number} of {len(job.facts.held_out)}"
        parts.append(_score(model, job.train[held_out], job.train_inside[held_out], what))
    if job.facts.fit_again:
        _fill_bank(model, embedded, job.facts)
    seconds = time.monotonic() - started
    calibration_scores, calibration_maps = (np.concatenate(part) for part in zip(*parts, strict=True))
    test_scores, test_maps = _score(model, job.test, job.test_inside, "scoring")
    facts = AnswerFacts(
        version=version("anomalib"),
        fit_seconds=seconds,
        peak_rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB / 1e6,
        bank=len(model.memory_bank),
    )
    return Answer(facts, calibration_scores, calibration_maps, test_scores, test_maps)


def _embed(model: Patchcore, job: Job) -> list[Tensor]:
    """Patches inside each normal picture: FP32 [n, D] each."""
    model.train()
    embedded = []
    for start in track(range(0, len(job.train), BATCH), "embedding normals"):
        window = slice(start, start + BATCH)
        patches = model(_batch(job.train[window]))
        inside = torch.from_numpy(job.train_inside[window]).flatten(1)
        embedded += [part[on] for part, on in zip(patches.view(*inside.shape, -1), inside, strict=True)]
        model.embedding_store.clear()  # the model keeps the filling's patches too
    return embedded


def _fill_bank(model: Patchcore, embedded: list[Tensor], facts: JobFacts) -> None:
    patches = sum(map(len, embedded))
    count = min(patches, max(facts.min_bank, int(patches * facts.coreset_ratio)))
    model.embedding_store.extend(embedded)
    model.subsample_embedding((count + 0.5) / patches if count < patches else 1.0)  # it rounds down


@torch.inference_mode()
def _score(
    model: Patchcore, pictures: NDArray[np.uint8], inside: NDArray[np.bool_], what: str
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scores FP32 [n] and maps FP32 [n, S, S] of squares UINT8 [n, S, S, 3]."""
    model.eval()
    scores, maps = [], []
    for start in track(range(0, len(pictures), BATCH), what):
        window = slice(start, start + BATCH)
        model.inside = torch.from_numpy(inside[window]).flatten(1)
        verdict = model(_batch(pictures[window]))
        scores.append(verdict.pred_score.numpy())
        maps.append(verdict.anomaly_map[:, 0].numpy())
    return np.concatenate(scores), np.concatenate(maps)


def _batch(pictures: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float()


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    write(folder, answer(read_job(folder)))
