"""The one training loop, its state on disk and its budget of time."""

from flawline.training.average import follow
from flawline.training.budget import Budget
from flawline.training.loop import MOST_STEPS, Training, freeze_statistics, train
from flawline.training.precision import mixed_precision
from flawline.training.state import TrainingState

__all__ = [
    "MOST_STEPS",
    "Budget",
    "Training",
    "TrainingState",
    "follow",
    "freeze_statistics",
    "mixed_precision",
    "train",
]
