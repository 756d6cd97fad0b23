"""A small denoising diffusion model of a line's normal pictures (papers: DDPM + asymmetric student, RealNet).

Trained on normal pictures alone. Its reverse chain with widened variance gives pictures that are near the normal
ones without being among them, which `flawline.synthesis.ddpm_blend` puts into Perlin regions.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DModel
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from flawline.errors import DataError, RecipeError
from flawline.files import write_atomically
from flawline.scoring.picture import Pixels
from flawline.synthesis.base import to_pixels
from flawline.synthesis.ddpm_blend import DDPMConfig
from flawline.synthesis.ddpm_data import Crops, Scale
from flawline.synthesis.perlin import square_noise
from flawline.synthesis.reverse import departure, reverse, visited
from flawline.training import Training, TrainingState, train
from flawline.training.state import save_tensors

_WARM_UP = 50
_TRAINED_BY = (
    "side",
    "whole",
    "patch",
    "channels",
    "blocks",
    "steps",
    "batch",
    "learning_rate",
    "ema",
    "timesteps",
)
"""Settings that make the weights; the others only say how they are used."""

Progress = Callable[[float], None]
"""Called with the share that is done, 0 to 1."""


class DDPM:
    """A trained model: generates pictures, and is saved as a folder of config.json and model.safetensors.

    Attributes:
        training: how it was trained; None for a model that was loaded.

    """

    def __init__(
        self, network: nn.Module, config: DDPMConfig, scale: Scale, training: Training | None = None
    ) -> None:
        self.network = network.eval().requires_grad_(requires_grad=False)
        self.config = config
        self.scale = scale
        self.training = training
        self.alphas = _alphas(config).to(next(network.parameters()).device)

    @torch.inference_mode()
    def generate(
        self,
        count: int,
        seed: int,
        pictures: Sequence[Pixels] | None = None,
        progress: Progress | None = None,
    ) -> list[Pixels]:
        """Generate pictures; s of the widened variance is drawn anew for every batch.

        Args:
            count: how many, at least 1.
            seed: of every random choice.
            pictures: normal pictures, UINT8 [H, W, 3] each, which partial diffusion starts from.
            progress: told after every batch.

        Returns:
            UINT8 [side, side, 3] each.

        Raises:
            RecipeError: the settings ask for partial diffusion, and there are no pictures.
            DataError: a picture of another form, or smaller than `side`.

        """
        made: list[Pixels] = []
        for rng, generator, sample in self._starts(count, seed, pictures):
            extent = self.scale.extent(sample.device)
            widen = rng.uniform(*self.config.widen)
            values = reverse(self._predict, sample, self._levels, self.alphas, extent, widen, generator)
            grey_levels = self.scale.grey_levels(self._cut(values)).expand(-1, 3, -1, -1)
            made += [to_pixels(value) for value in grey_levels.permute(0, 2, 3, 1).cpu().numpy()]
            if progress is not None:
                progress(len(made) / count)
        return made

    @torch.inference_mode()
    def departures(
        self,
        count: int,
        seed: int,
        pictures: Sequence[Pixels] | None = None,
        progress: Progress | None = None,
    ) -> list[NDArray[np.int16]]:
        """Tell how widening changes normal pictures, see `flawline.synthesis.reverse.departure`.

        s is drawn anew for each of them, and so is w: Perlin noise of 2^k cells per axis, k uniform in 0..5, and a
        normal constant, as often finer or coarser, and as much of one tone as of many.

        Args:
            count: see `generate`.
            seed: see `generate`.
            pictures: see `generate`.
            progress: see `generate`.

        Returns:
            INT16 [side, side, 3] each, grey levels to add, -255 to 255.

        Raises:
            FlawlineError: as `generate`.

        """
        made: list[NDArray[np.int16]] = []
        for rng, generator, sample in self._starts(count, seed, pictures):
            fields = np.stack([_field(sample.shape[-1], rng) for _ in sample])[:, None]
            values = departure(
                self._predict,
                sample,
                self._levels,
                self.alphas,
                self.scale.extent(sample.device),
                torch.from_numpy(rng.uniform(*self.config.widen, (len(sample), 1, 1, 1))).to(sample),
                torch.from_numpy(fields).to(sample),
                generator,
            )
            grey_levels = (self._cut(values) * self.scale.deviation).round().expand(-1, 3, -1, -1)
            made += list(grey_levels.permute(0, 2, 3, 1).cpu().numpy().astype(np.int16))
            if progress is not None:
                progress(len(made) / count)
        return made

    @property
    def _levels(self) -> list[int]:
        top = self.config.timesteps - 1 if self.config.partial is None else self.config.partial
        return visited(top, self.config.sampling_steps)

    @property
    def _margin(self) -> int:
        """The network sees nothing beyond the rim and leaves it noisy: crops are made wider and cut."""
        return 0 if self.config.whole else self.config.coarsest

    def _cut(self, values: Tensor) -> Tensor:
        end = self._margin + self.config.side
        return values[..., self._margin : end, self._margin : end]

    def _starts(
        self, count: int, seed: int, pictures: Sequence[Pixels] | None
    ) -> Iterator[tuple[np.random.Generator, torch.Generator, Tensor]]:
        """Batch by batch: what draws at random, and where reverse chains start, FP32 [B, C, S, S]."""
        config, margin = self.config, self._margin
        if config.partial is not None and not pictures:
            msg = "partial diffusion starts from normal pictures; give some, or set partial to null"
            raise RecipeError(msg)
        crops = Crops(pictures or (), config)
        side = config.side + 2 * margin
        for number in range(-(-count // config.batch)):
            rng = np.random.default_rng([seed, number])
            generator = _generator(rng)
            shape = (min(config.batch, count - number * config.batch), len(self.scale.mean), side, side)
            sample = torch.randn(shape, generator=generator).to(self.alphas.device)
            if config.partial is not None:
                signal = self.alphas[config.partial]
                normal = F.pad(crops.draw(len(sample), rng), (margin,) * 4, mode="reflect").to(sample.device)
                sample = signal.sqrt() * self.scale.standardised(normal) + (1 - signal).sqrt() * sample
            yield rng, generator, sample

    def _predict(self, sample: Tensor, level: int) -> Tensor:
        levels = torch.full((len(sample),), level, device=sample.device)
        return _predicted(self.network, sample, levels, self.alphas, self.config.patch)

    def save(self, folder: Path) -> None:
        """Write the folder, made when missing; the caller knows what it replaces."""
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(folder / "model.safetensors", self.network.state_dict(), {})
        content = {"scale": asdict(self.scale), **self.config.model_dump()}
        write_atomically(folder / "config.json", json.dumps(content, indent=2) + "\n", over=True)

    @classmethod
    def load(cls, folder: Path, device: str | torch.device = "cpu") -> "DDPM":
        """Read what `save` wrote.

        Raises:
            DataError: a file is missing or damaged.

        """
        try:
            content = json.loads((folder / "config.json").read_text())
            scale = content.pop("scale")
            scale = Scale(tuple(scale["mean"]), scale["deviation"])
            config = DDPMConfig.model_validate(content)
            network = _network(config, len(scale.mean), seed=0)
            network.load_state_dict(load_file(folder / "model.safetensors"))
        except (OSError, KeyError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:200]
            msg = f"{folder} holds no whole diffusion model ({reason}); train it again"
            raise DataError(msg) from error
        return cls(network.to(device), config, scale)


def train_ddpm(
    pictures: Sequence[Pixels],
    config: DDPMConfig,
    *,
    seed: int,
    device: str | torch.device = "cpu",
    budget: float | None = None,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> DDPM:
    """Learn to predict the noise in normal pictures: min E |eps - eps_theta(sqrt(a_t) x + sqrt(1-a_t) eps, t)|^2.

    Args:
        pictures: normal pictures, UINT8 [H, W, 3] each, of any sizes; `config.whole` says whether crops are learnt.
        config: settings of the model.
        seed: seed of the weights and of every random draw.
        device: device to train on; the model stays there.
        budget: seconds, as `flawline.training.train` takes them.
        checkpoint: file for the state, as `flawline.training.train` takes it.
        progress: called after every step with the share done, 0 to 1.

    Returns:
        The model with the running mean of the weights.

    Raises:
        ArtefactError: the checkpoint is damaged, or of other pictures, settings or another seed.
        DataError: no picture, one of another form or smaller than the crops, or the loss is not finite.

    """
    if not len(pictures):
        msg = "there is no normal picture to train a diffusion model on; give some"
        raise DataError(msg)
    crops = Crops(pictures, config)
    scale = crops.scale()
    network = _network(config, len(scale.mean), seed).to(device).train()
    mean = _network(config, len(scale.mean), seed).to(device).eval()
    optimiser = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    alphas = _alphas(config).to(device)

    def step(number: int, _done: float) -> Tensor:
        rng = np.random.default_rng([seed, number])
        clean = scale.standardised(crops.draw(config.batch, rng).to(device))
        return _loss(network, clean, alphas, config.patch, _generator(rng))

    def rates(number: int, done: float) -> tuple[float]:
        rate = config.learning_rate * min(1, (number + 1) / _WARM_UP) * (1 + math.cos(math.pi * done)) / 2
        return (rate,)

    training = train(
        step,
        TrainingState({"weight": network, "mean": mean}, optimiser, _identity(pictures, config, seed)),
        steps=config.steps,
        rates=rates,
        clip=(1.0,),
        budget=budget,
        checkpoint=checkpoint,
        after=lambda steps: _follow(mean, network, min(config.ema, steps / (steps + 10))),
        progress=None if progress is None else lambda done, _loss: progress(done),
    )
    return DDPM(mean, config, scale, training)


def _identity(pictures: Sequence[Pixels], config: DDPMConfig, seed: int) -> dict[str, object]:
    """What the weights depend on."""
    digest = hashlib.sha256()
    for picture in pictures:
        digest.update(str(picture.shape).encode())
        digest.update(np.ascontiguousarray(picture).data)
    settings = {name: getattr(config, name) for name in _TRAINED_BY}
    return {**settings, "seed": seed, "pictures": digest.hexdigest()}


def _loss(
    network: nn.Module, clean: Tensor, alphas: Tensor, patch: int, generator: torch.Generator
) -> Tensor:
    """Mean squared error of the predicted noise, a scalar, on pictures FP32 [B, C, S, S]."""
    level = torch.randint(len(alphas), (len(clean),), generator=generator).to(clean.device)
    noise = torch.randn(clean.shape, generator=generator).to(clean.device)
    signal = alphas[level][:, None, None, None]
    noisy = signal.sqrt() * clean + (1 - signal).sqrt() * noise
    with torch.autocast(clean.device.type, dtype=torch.bfloat16):
        predicted = _predicted(network, noisy, level, alphas, patch)
    return F.mse_loss(predicted, noise)


def _predicted(network: nn.Module, noisy: Tensor, level: Tensor, alphas: Tensor, patch: int) -> Tensor:
    """Give the noise in pictures FP32 [B, C, S, S] at levels INT64 [B].

    The network itself tells v = sqrt(a_t) eps - sqrt(1-a_t) x (Salimans and Ho, "Progressive distillation", 2022),
    from which eps = sqrt(a_t) v + sqrt(1-a_t) x_t follows. In very noisy pictures eps is then right from the start,
    which a network trained for minutes only would otherwise spend them on.
    """
    places = network(F.pixel_unshuffle(noisy, patch), level).sample
    velocity = F.pixel_shuffle(places.float(), patch)
    signal = alphas[level][:, None, None, None]
    return signal.sqrt() * velocity + (1 - signal).sqrt() * noisy


@torch.no_grad()
def _follow(mean: nn.Module, network: nn.Module, decay: float) -> None:
    """Let the running mean of the weights follow them."""
    for kept, now in zip(mean.parameters(), network.parameters(), strict=True):
        kept.lerp_(now, 1 - decay)


def _network(config: DDPMConfig, colours: int, seed: int) -> nn.Module:
    """U-Net whose coarsest level also attends over all places."""
    plain = len(config.channels) - 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = UNet2DModel(
            sample_size=config.side // config.patch,
            in_channels=colours * config.patch**2,
            out_channels=colours * config.patch**2,
            layers_per_block=config.blocks,
            block_out_channels=config.channels,
            down_block_types=("DownBlock2D",) * plain + ("AttnDownBlock2D",),
            up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * plain,
            norm_num_groups=8,
            attention_head_dim=min(32, config.channels[-1]),
        )
    return cast(nn.Module, network)


def _alphas(config: DDPMConfig) -> Tensor:
    """Share of signal left at each noise level, FP32 [T]."""
    scheduler: Any = DDPMScheduler(num_train_timesteps=config.timesteps, beta_schedule="linear")
    return cast(Tensor, scheduler.alphas_cumprod)


def _field(side: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Smooth noise about a constant of its own, FP32 [side, side]; its mean square is about 1."""
    noise = square_noise(side, side, 6, rng)
    return cast(NDArray[np.float32], (noise / noise.std() + np.float32(rng.normal())) / np.float32(2**0.5))


def _generator(rng: np.random.Generator) -> torch.Generator:
    """Random numbers for torch, on the CPU: one seed gives the same on every device."""
    return torch.Generator().manual_seed(int(rng.integers(2**63)))
