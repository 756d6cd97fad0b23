"""Pictures of a line with what is known of them, from public layouts, your own folder, or drawn by rule."""

from flawline.data.layouts import load_dataset
from flawline.data.sample import GOOD, Dataset, Sample

__all__ = ["GOOD", "Dataset", "Sample", "load_dataset"]
