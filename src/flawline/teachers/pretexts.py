"""What a teacher is trained to do on generated lines: pretext tasks, alone or together.

Each task is a module that turns feature maps of an episode's pictures into a loss, and may hold heads that only
training needs. `bank` asks for what a memory bank needs; the others are the usual candidates it was compared with
(docs/results.md has the figures).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flawline.teachers.generator import Episode
from flawline.teachers.patch_features import PatchFeatures

GREEN = 1  # the channel that stands for brightness


@dataclass(frozen=True)
class Seen:
    """Feature maps of an episode, one list entry per stage, finest first.

    `normal` and `tested` are FP32 [L, N, C, H, W] and [L, Q, C, H, W]; `relit` as `tested`, empty unless a task
    asks for it. `formula` INT64 [L] numbers each line's formula where they come from a fixed set.
    """

    normal: list[Tensor]
    tested: list[Tensor]
    relit: list[Tensor]
    formula: Tensor


def cover(irregular: Tensor, grid: int) -> Tensor:
    """Share of each patch that is irregular: FP32 [..., grid, grid] of [..., S, S]."""
    return F.adaptive_avg_pool2d(irregular.flatten(0, -3)[:, None], grid)[:, 0].unflatten(
        0, irregular.shape[:-2]
    )


def verdicts(irregular: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    """Which patches are irregular, and which certainly are not: BOOL [..., grid, grid] each.

    A patch that is barely touched, or lies beside an irregular one, is neither: features look further than
    their patch.
    """
    share = cover(irregular, grid)
    most = share.amax(dim=(-2, -1), keepdim=True)
    strange = (share >= 0.12) | ((share >= 0.7 * most) & (most > 0.01))
    touched = F.max_pool2d((share > 0).float().flatten(0, -3)[:, None], 3, stride=1, padding=1)[:, 0]
    return strange, touched.unflatten(0, share.shape[:-2]) == 0


class Bank(nn.Module):
    """Episodes of bank building: a patch's distance from the nearest normal patch says whether it is irregular.

    The distances are those that a memory bank will take, and only their order within a line counts, so what is
    learned is what is used: normal pictures of a line close together under every light and jitter, whatever is
    planted far away. The idea is that of prototypical networks (Snell et al. 2017, arXiv 1703.05175), with a bank
    of patches in place of a prototype.
    """

    relit, classes = False, 0
    bank_patches = 576

    def __init__(self, widths: Sequence[int]) -> None:
        """Take the widths of the backbone's stages; every stage learns alone, and the last two together."""
        super().__init__()
        self.features = PatchFeatures(count_padding=False)  # the border of a crop is none of a picture
        count = len(widths)
        self.choices = [[stage] for stage in range(count)] + ([[count - 2, count - 1]] if count > 1 else [])
        self.steepness = nn.Parameter(torch.full((len(self.choices),), 2.0))
        self.offset = nn.Parameter(torch.full((len(self.choices),), -2.0))

    def forward(self, seen: Seen, episode: Episode) -> Tensor:
        """Mean loss over stages."""
        losses = [self._loss(number, choice, seen, episode) for number, choice in enumerate(self.choices)]
        return torch.stack(losses).mean()

    def _loss(self, number: int, choice: list[int], seen: Seen, episode: Episode) -> Tensor:
        bank = self._patches([seen.normal[stage] for stage in choice])
        tested = self._patches([seen.tested[stage] for stage in choice])
        queries = episode.tested.shape[1]
        bank = bank.flatten(1, 2)
        bank = bank[:, :: max(1, bank.shape[1] // self.bank_patches)]
        distance = _nearest(tested.flatten(1, 2), bank).unflatten(1, (queries, -1))
        strange, clean = verdicts(episode.irregular, seen.tested[choice[0]].shape[-1])
        return parted(
            distance, strange.flatten(2), clean.flatten(2), self.steepness[number], self.offset[number]
        )

    def _patches(self, maps: list[Tensor]) -> Tensor:
        lines, pictures = maps[0].shape[:2]
        patches: Tensor = self.features([part.flatten(0, 1) for part in maps]).flatten(1, 2)
        return patches.unflatten(0, (lines, pictures))


def parted(distance: Tensor, strange: Tensor, clean: Tensor, steepness: Tensor, offset: Tensor) -> Tensor:
    """How badly distances part strange patches from clean ones of the same line: a scalar, 0 at best.

    Args:
        distance: logarithms of distances to the bank, FP32 [L, Q, P].
        strange: BOOL [L, Q, P], patches that must lie far away.
        clean: BOOL [L, Q, P], patches that must lie near; the others do not count.
        steepness: scalar, logits per unit of distance.
        offset: scalar, logit of a patch as far away as the line's mean clean patch.

    """
    level = torch.where(clean, distance, 0).sum(dim=(1, 2)) / clean.sum(dim=(1, 2)).clamp_min(1)
    logit = steepness * (distance - level[:, None, None]) + offset
    patchwise = (_mean(F.softplus(-logit), strange) + _mean(F.softplus(logit), clean)) / 2
    # A picture's score is its strangest patch: it must stand out among the strangest normal ones of its line.
    worst = torch.where(clean, logit, -30).flatten(1).topk(8, dim=1).values.mean(dim=1)
    best = torch.where(strange, logit, -30).amax(dim=2)
    picturewise = _mean(F.softplus(worst[:, None] - best), strange.any(dim=2))
    return patchwise + 0.5 * picturewise


def _nearest(patches: Tensor, bank: Tensor) -> Tensor:
    """Logarithm of the squared distance of patches [L, P, D] to the nearest of their line's bank [L, N, D]."""
    with torch.no_grad():  # which patch is nearest has no gradient, and its search is the costly part
        squares = bank.square().sum(dim=2)[:, None]
        row = torch.baddbmm(squares, patches, bank.transpose(1, 2), alpha=-2).argmin(dim=2)
    partner = bank.gather(1, row[..., None].expand(-1, -1, bank.shape[2]))
    scale = patches.square().sum(dim=2).mean(dim=1, keepdim=True)
    return ((patches - partner).square().sum(dim=2) / scale + 1e-3).log()


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    return (values * chosen).sum() / chosen.sum().clamp_min(1)


class Marks(nn.Module):
    """Mark the planted irregularities by one linear head per stage, with no look at normal pictures."""

    relit, classes = False, 0

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Conv2d(width, 1, 1) for width in widths)

    def forward(self, seen: Seen, episode: Episode) -> Tensor:
        """Binary cross-entropy, irregular and clean patches weighing the same, mean over stages."""
        losses = []
        for head, part in zip(self.heads, seen.tested, strict=True):
            logit = head(part.flatten(0, 1))[:, 0].unflatten(0, part.shape[:2])
            strange, clean = verdicts(episode.irregular, part.shape[-1])
            losses.append((_mean(F.softplus(-logit), strange) + _mean(F.softplus(logit), clean)) / 2)
        return torch.stack(losses).mean()


class Names(nn.Module):
    """Name the formula under every clean patch, out of a fixed set, as FractalDB does with pictures.

    Kataoka et al. 2020, Pre-training without Natural Images (arXiv 2101.08515); here a patch at a time.
    """

    relit, classes = False, 512

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Conv2d(width, self.classes, 1) for width in widths[1:])

    def forward(self, seen: Seen, episode: Episode) -> Tensor:
        """Cross-entropy per patch of the normal pictures, mean over the stages but the first."""
        del episode
        losses = []
        for head, part in zip(self.heads, seen.normal[1:], strict=True):
            logits = head(part.flatten(0, 1)).flatten(2)
            target = seen.formula.repeat_interleave(part.shape[1])[:, None].expand(-1, logits.shape[2])
            losses.append(F.cross_entropy(logits, target))
        return torch.stack(losses).mean()


class Light(nn.Module):
    """InfoNCE: find every patch again under another light, among those of all surfaces.

    Dense contrastive learning (Wang et al. 2021, arXiv 2011.09157) without a projector: the features themselves
    are what a bank compares.
    """

    relit, classes = True, 0
    patches, temperature = 18, 0.1

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        del widths

    def forward(self, seen: Seen, episode: Episode) -> Tensor:
        """Cross-entropy both ways, mean over the stages but the first."""
        del episode
        losses = [self._loss(*pair) for pair in zip(seen.tested[1:], seen.relit[1:], strict=True)]
        return torch.stack(losses).mean()

    def _loss(self, first: Tensor, second: Tensor) -> Tensor:
        flat = torch.stack((first, second)).flatten(1, 2).flatten(3).transpose(2, 3)
        patches = flat[:, :, :: max(1, flat.shape[2] // self.patches)] - flat.mean(dim=(0, 1, 2))
        one, other = F.normalize(patches, dim=-1).flatten(1, 2)
        likeness = one @ other.T / self.temperature
        target = torch.arange(len(likeness), device=likeness.device)
        return (F.cross_entropy(likeness, target) + F.cross_entropy(likeness.T, target)) / 2


class Variance(nn.Module):
    """VICReg on patches: equal under another light, no dimension dead, none the copy of another.

    Bardes, Ponce, LeCun 2022 (arXiv 2105.04906) with its weights 25, 25, 1, and a linear projector per stage.
    """

    relit, classes = True, 0

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.projectors = nn.ModuleList(nn.Linear(width, 4 * width) for width in widths[1:])

    def forward(self, seen: Seen, episode: Episode) -> Tensor:
        """Mean over the stages but the first."""
        del episode
        pairs = zip(self.projectors, seen.tested[1:], seen.relit[1:], strict=True)
        return torch.stack([self._loss(*pair) for pair in pairs]).mean()

    def _loss(self, projector: nn.Module, first: Tensor, second: Tensor) -> Tensor:
        one, other = (
            projector(part.flatten(0, 1).flatten(2).transpose(1, 2)[:, ::4]).flatten(0, 1)
            for part in (first, second)
        )
        loss = 25 * F.mse_loss(one, other)
        for part in (one, other):
            centred = part - part.mean(dim=0)
            covariance = centred.T @ centred / (len(part) - 1)
            variance = covariance.diagonal()
            spread = F.relu(1 - (variance + 1e-4).sqrt()).mean()
            off_diagonal = (covariance.square().sum() - variance.square().sum()) / len(variance)
            loss = loss + (25 * spread + off_diagonal) / 2
        return loss / 25


class Describe(nn.Module):
    """Predict classical texture descriptors of every patch: energies of an oriented filter bank at four scales.

    The filters are Gabor pairs of eight orientations; a linear head on each stage but the first predicts the
    logarithm of their energy, so features must hold what descriptors of textures hold.
    """

    relit, classes = False, 0
    filters: Tensor

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("filters", _gabor_pairs(orientations=8), persistent=False)
        self.heads = nn.ModuleList(nn.Conv2d(width, 32, 1) for width in widths[1:])

    def forward(self, seen: Seen, episode: Episode) -> Tensor:
        """Mean squared error of standardised log energies, mean over stages."""
        pictures = episode.tested.flatten(0, 1)[..., GREEN].float()[:, None]
        pictures = (pictures - pictures.mean(dim=(2, 3), keepdim=True)) / (
            pictures.std(dim=(2, 3), keepdim=True) + 2
        )
        energies = []
        for scale in range(4):
            small = F.avg_pool2d(pictures, 2**scale) if scale else pictures
            pair = F.conv2d(small, self.filters, padding="same").unflatten(1, (8, 2))
            energies.append(pair.square().sum(dim=2))
        losses = []
        for head, part in zip(self.heads, seen.tested[1:], strict=True):
            target = torch.cat([F.adaptive_avg_pool2d(each, part.shape[-1]) for each in energies], dim=1)
            target = (target + 1e-3).log()
            target = (target - target.mean(dim=(0, 2, 3), keepdim=True)) / target.std(
                dim=(0, 2, 3), keepdim=True
            )
            losses.append(F.mse_loss(head(part.flatten(0, 1)), target))
        return torch.stack(losses).mean()


def _gabor_pairs(orientations: int, size: int = 9, wavelength: float = 4.0) -> Tensor:
    """Even and odd Gabor filters, FP32 [2 x orientations, 1, size, size], of mean 0."""
    steps = torch.arange(size) - size // 2
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    envelope = torch.exp(-(x**2 + y**2) / (2 * 2.0**2))
    filters = []
    for number in range(orientations):
        angle = torch.tensor(torch.pi * number / orientations)
        phase = 2 * torch.pi * (x * angle.cos() + y * angle.sin()) / wavelength
        for wave in (phase.cos(), phase.sin()):
            each = envelope * wave
            each = each - envelope * each.sum() / envelope.sum()
            filters.append(each / each.norm())
    return torch.stack(filters)[:, None]


PRETEXTS: dict[str, Callable[[Sequence[int]], nn.Module]] = {
    "bank": Bank,
    "marks": Marks,
    "names": Names,
    "light": Light,
    "variance": Variance,
    "describe": Describe,
}
"""Tasks by the name that `pretrain_teacher.py --pretexts` takes."""
