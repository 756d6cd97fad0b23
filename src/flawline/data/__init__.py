"""Pictures of a line with what is known of them, from public layouts, your own folder, or drawn by rule."""

from flawline.data.layouts import load_dataset, load_holdout
from flawline.data.sample import GOOD, Dataset, Sample, digests

__all__ = ["GOOD", "Dataset", "Sample", "digests", "load_dataset", "load_holdout"]
