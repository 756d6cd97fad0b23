"""The fused detector on pictures that have no entry, to measure it: what nobody would deploy."""

from torch import Tensor

from flawline.detectors.d3n.diffusion.chain import Taught
from flawline.detectors.line import Line
from flawline.teachers import in_grey_levels


class FusedLine(Line):
    """A line whose detector is the fused one; the diffusion model runs on each picture.

    The repository has entries of training pictures alone (D3N, abstract), so any other picture gets one here as
    they got theirs, without a label, and loses it again.

    Args:
        line: line with `d3n` alone, that diffusion taught.
        taught: what taught it.

    """

    def __init__(self, line: Line, taught: Taught) -> None:
        super().__init__(line.teacher, line.parts)
        self.taught = taught

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """See Line."""
        grey_levels = in_grey_levels(pictures, self.teacher.bits)
        outputs = self.taught.fused.fused(self.teacher.prepare(grey_levels), self.taught.live(grey_levels))
        select = self.parts[0].module.select
        return (select(outputs),)  # type: ignore[operator]

    @property
    def weights(self) -> int:
        """Number of weights of detector, diffusion model and ResVAE."""
        modules = (self.taught.fused, self.taught.features.network, self.taught.codec)
        return sum(each.numel() for module in modules for each in module.parameters())
