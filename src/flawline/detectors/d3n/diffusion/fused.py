"""The fused detector: the light one, whose pyramid is refined by a diffusion model's features before the head."""

from collections.abc import Sequence

from torch import Tensor

from flawline.detectors.d3n.diffusion.cross_fusion import Fusion
from flawline.detectors.d3n.network import Detector, Outputs


class Fused(Detector):
    """The strong detector that teaches the light one.

    Args:
        detector: detector whose body, neck and head it takes over.
        fusion: refines its pyramid.

    """

    def __init__(self, detector: Detector, fusion: Fusion) -> None:
        super(Detector, self).__init__()
        self.body, self.chosen = detector.body, detector.chosen
        self.neck, self.head, self.fusion = detector.neck, detector.head, fusion

    def fused(self, pixels: Tensor, features: Sequence[Tensor]) -> Outputs:
        """Turn prepared pixels FP32 [B, 3, S, S] and the features of the same squares into what the head says."""
        outputs: Outputs = self.head(self.fusion(self.pyramid(pixels), features))
        return outputs
