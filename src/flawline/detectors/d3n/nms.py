"""From what the head says to a fixed number of boxes, inside the line's graph: top-K, then class-aware NMS."""

import torch
from torch import Tensor, nn

from flawline.detectors.d3n.losses import overlap
from flawline.detectors.d3n.network import Outputs

CANDIDATES = 200
"""Pairs of cell and class of the highest scores that are looked at."""
ROWS = 100
"""Boxes that a picture can have, as many as COCO's measure counts."""
ROUNDS = 10
"""Most boxes in a chain of which each hides the next that are settled exactly as by greedy NMS."""


class Select(nn.Module):
    """Turns Outputs into FP32 [B, ROWS, 6]: x1, y1, x2, y2 in pixels of the square, score, class; score -1 is none.

    A box goes where a stronger one of its class, which itself stays, overlaps it by more than `most`. Greedy NMS
    has a loop of unknown length, which not every runtime compiles; here the same is reached from the table of all
    overlaps by ROUNDS fixed rounds: after round k every box is settled that k - 1 others in a row decide on.

    Args:
        size: side of the square in pixels, to which boxes are clipped.
        most: overlap above which the weaker of two boxes goes, in (0, 1).

    """

    def __init__(self, size: int, most: float) -> None:
        super().__init__()
        self.size, self.most = size, most

    def forward(self, outputs: Outputs) -> Tensor:
        """See the class."""
        scores = outputs.logits.sigmoid()
        classes = scores.shape[2]
        count = min(CANDIDATES, scores.shape[1] * classes)
        best, places = scores.flatten(1).topk(count, dim=1)
        cells, labels = places // classes, places % classes
        boxes = outputs.boxes().clamp(0, self.size).gather(1, cells[..., None].expand(-1, -1, 4))
        hides = self._hides(boxes, labels)
        stays = torch.ones_like(best)
        for _ in range(ROUNDS):
            stays = 1.0 - (stays[:, None] @ hides)[:, 0].clamp(max=1.0)
        kept, order = torch.where(stays > 0.5, best, torch.full_like(best, -1.0)).topk(
            min(ROWS, count), dim=1
        )
        rows = torch.cat((boxes, labels[..., None].float()), dim=2).gather(
            1, order[..., None].expand(-1, -1, 5)
        )
        return torch.cat((rows[..., :4], kept[..., None], rows[..., 4:]), dim=2)

    def _hides(self, boxes: Tensor, labels: Tensor) -> Tensor:
        """FP32 [B, K, K], 1 where the box of the row is stronger, of the same class, and overlaps too much."""
        near = overlap(boxes[:, :, None], boxes[:, None]) > self.most
        same = labels[:, :, None] == labels[:, None]
        return torch.triu((near & same).float(), diagonal=1)
