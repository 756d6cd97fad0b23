"""Frozen backbones, and the patch features made of what they see."""

from flawline.teachers.patch_features import PatchFeatures
from flawline.teachers.sources import settle
from flawline.teachers.teacher import Teacher, default_layers, in_grey_levels, load_teacher, stacked

__all__ = [
    "PatchFeatures",
    "Teacher",
    "default_layers",
    "in_grey_levels",
    "load_teacher",
    "settle",
    "stacked",
]
