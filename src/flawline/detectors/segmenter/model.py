"""The segmenter's network: a backbone that learns, a pyramid, and one logit for each cell of the finest map.

Like DRAEM's second network (Zavrtanik et al., ICCV 2021) it learns to mark synthetic defects on good pictures.
Unlike it, it begins with the teacher's ImageNet backbone and sees no reconstruction.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flawline.teachers.backbone import Backbone

_GAMMA = 2.0
"""Exponent of the focal loss (Lin et al., ICCV 2017)."""
_FOCAL, _DICE = 4.0, 0.5
"""Weights of the two losses, which begin about equally large."""
_PRIOR = -3.0
"""Logit at the start: defects are rare."""


class Segmenter(nn.Module):
    """Prepared pixels to the logit of a defect at each cell.

    Args:
        backbone: network that learns.
        chosen: positions among the backbone's maps of those that are taken, finest first.
        width: channels of the pyramid.

    """

    def __init__(self, backbone: Backbone, chosen: Sequence[int], width: int) -> None:
        super().__init__()
        self.body, self.chosen = backbone, tuple(chosen)
        channels = [backbone.channels[position] for position in self.chosen]
        self.lateral = nn.ModuleList(nn.Conv2d(each, width, 1) for each in channels)
        self.smooth = nn.ModuleList(_smoothing(width) for _ in channels)
        self.out = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 1, 1))
        nn.init.constant_(self.out[-1].bias, _PRIOR)  # type: ignore[arg-type]

    def logits(self, pixels: Tensor) -> Tensor:
        """Turn prepared pixels FP32 [B, 3, S, S] into FP32 [B, h, w], as fine as the finest map."""
        maps = self.body(pixels)
        levels = [lateral(maps[place]) for lateral, place in zip(self.lateral, self.chosen, strict=True)]
        state = self.smooth[-1](levels[-1])
        for level, smooth in zip(levels[-2::-1], list(self.smooth)[-2::-1], strict=True):
            above = F.interpolate(state, size=level.shape[2:], mode="bilinear", align_corners=False)
            state = smooth(level + above)
        given: Tensor = self.out(state)[:, 0].float()
        return given

    def forward(self, pixels: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """Give -log(1 - p) of the probability p of a defect: FP32 [B, h, w], which ranks as p does.

        The teacher's maps are not used.
        """
        del maps
        return F.softplus(self.logits(pixels))

    def loss(self, pixels: Tensor, mask: Tensor) -> Tensor:
        """Focal loss over all cells, and Dice loss over the pictures with a defect (Milletari et al., 3DV 2016).

        Args:
            pixels: FP32 [B, 3, C, C], prepared.
            mask: FP32 [B, C, C], 1 on defects; a cell that a defect touches is one.

        """
        logits = self.logits(pixels)
        truth = F.adaptive_max_pool2d(mask[:, None], logits.shape[1:])[:, 0]
        cross = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        focal = (cross * (1 - (-cross).exp()) ** _GAMMA).mean()
        chance = logits.sigmoid()
        shared, areas = (chance * truth).sum((1, 2)), (chance + truth).sum((1, 2))
        dice = 1 - (2 * shared + 1) / (areas + 1)
        shown = truth.amax((1, 2))
        return _FOCAL * focal + _DICE * (dice * shown).sum() / shown.sum().clamp(min=1)


def _smoothing(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())


def groups(network: Segmenter, share: float) -> tuple[list[dict[str, list[nn.Parameter]]], list[float]]:
    """Parameters of the backbone and of all else, and the share of the learning rate that each has."""
    body = list(network.body.parameters())
    known = set(map(id, body))
    new = [each for each in network.parameters() if id(each) not in known]
    return [{"params": body}, {"params": new}], [share, 1.0]


def twins(clean: Tensor, corrupted: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Join clean and corrupted crops into one batch, and its masks: in clean ones there is nothing to mark."""
    return torch.cat((clean, corrupted)), torch.cat((torch.zeros_like(mask), mask))
