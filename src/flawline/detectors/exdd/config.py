"""Every choice ExDD leaves open, with the number the paper or its authors' code gives."""

from typing import Literal

from pydantic import Field

from flawline.detectors.part import PartConfig
from flawline.scoring.settings import MOST_SIGMA, MOST_WEIGHT
from flawline.synthesis import Synthesis

Positive = Literal["auto", "labelled", "synthetic", "none"]


class ExDDConfig(PartConfig):
    """Settings of `exdd`. Where the authors' code has a quirk, the default is the clean choice.

    Attributes:
        weight: see PartConfig; the students have a quarter.
        positive: where the positive bank comes from: 'labelled' defect pictures of the training split,
            'synthetic' defects, 'none', or 'auto': labelled if there are any, else synthetic.
        synthesis: method that makes the synthetic defects; null takes that of the recipe.
        synthetic_count: number of synthetic defects.
        sigma: standard deviation in pixels of the Gaussian that smooths the map.
        negative_share: share of normal patches kept by the coreset (authors: 0.01).
        positive_share: share of defect patches kept (authors: 0.1).
        min_bank: fewest patches of a bank, if there are as many (authors: 1000).
        max_bank: most patches of a bank, so that a search stays within its time.
        pool_limit: patches held while choosing; more are thinned at random, evenly over the pictures.
        projection: dimensions in which the coreset measures distances (authors: 128); null keeps all.
        neighbours: number of entries next to the nearest one that the neighbourhood weight looks at (authors: 2).
        image_score: what speaks for the picture, `map` or one of the authors' weighted patches; see
            flawline.scoring.ratio.ImageScore.
        top_share: for `map`, share of the pixels, the strongest of the smoothed map, whose mean is the picture's
            score; 0 takes the largest.
        positive_weight: exponent of the distance from the positive bank, 1 in the paper, 0 for distance from
            normal alone; see flawline.scoring.ratio.find_ratio.
        positive_patches: 'masked' keeps the patches that a defect covers; 'crops' is the authors' way: every
            patch of the defect's bounding box, cut out and resized to 128 x 128; 'last_crop' also keeps only the
            last region of each picture, as their code does by overwriting files.
        min_cover: share of a patch that the defect must cover, for 'masked'. The most covered patch of a
            defect always counts.
        overexposed: whether the normal bank also holds an overexposed copy of each good picture; null does so where
            some good pictures are clipped and most are not.
        colour: whether patches of pictures that are not grey also hold their mean colour.
        faithful_pooling: 3 x 3 pooling without padding and adaptive resizing, as the authors' code does.
        eight_bit_map: whether the map is rounded to 8 bits before it is smoothed, as the authors' blur does.

    """

    weight: float = Field(0.75, ge=0, le=MOST_WEIGHT)
    positive: Positive = "auto"
    synthesis: Synthesis | None = None
    synthetic_count: int = Field(100, ge=1, le=100_000)
    sigma: float = Field(4.0, ge=0, le=MOST_SIGMA)
    negative_share: float = Field(0.01, gt=0, le=1)
    positive_share: float = Field(0.1, gt=0, le=1)
    min_bank: int = Field(1000, ge=1, le=1_000_000)
    max_bank: int = Field(20_000, ge=1, le=1_000_000)
    pool_limit: int = Field(400_000, ge=1000, le=100_000_000)
    projection: int | None = Field(128, ge=1, le=65_536)
    neighbours: int = Field(2, ge=1, le=64)
    image_score: Literal["map", "map_peak", "negative_peak", "faithful"] = "map"
    top_share: float = Field(0.01, ge=0, le=1)
    positive_weight: float = Field(0.25, ge=0, le=1)
    positive_patches: Literal["masked", "crops", "last_crop"] = "masked"
    min_cover: float = Field(0.25, gt=0, le=1)
    overexposed: bool | None = None
    colour: bool = True
    faithful_pooling: bool = False
    eight_bit_map: bool = False
