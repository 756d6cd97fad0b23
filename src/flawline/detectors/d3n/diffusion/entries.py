"""The feature repository: one entry for each training picture, on disk (D3N, abstract).

Two files: `latents.npy`, FP16 [N, D], which is mapped into memory and read entry by entry, and `repository.json`,
which says what made it and how far it is. Entries count once the second file names their fingerprint, so filling it
goes on after an interruption at any moment.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from flawline import __version__
from flawline.detectors.d3n.diffusion.features import BATCH, Features, batches
from flawline.detectors.d3n.diffusion.resvae import Codec
from flawline.errors import ArtefactError
from flawline.files import check_output, check_space, room_in, write_atomically, written_whole
from flawline.progress import track
from flawline.scoring.picture import Pixels
from flawline.training.state import difference

LATENTS, RECORD = "latents.npy", "repository.json"


class _Chunk(BaseModel):
    """Entries that were written at once.

    Attributes:
        sha256: fingerprint of their bytes.
        missed: for each scale the sum of the squared differences between features and what is decoded.
        power: for each scale the sum of the squared features.

    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    missed: tuple[float, ...]
    power: tuple[float, ...]


class RepositoryFacts(BaseModel):
    """Size and quality of a feature repository.

    Attributes:
        entries: number of pictures.
        numbers: numbers that are kept of each, at FP16.
        bytes: what they take on disk, all together.
        raw_bytes: what the features themselves would take at FP16.
        factor: how many times smaller the entries are.
        error: share of the features' power (mean square, 1 for each channel) that what is decoded misses, by scale,
            finest first.

    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    entries: int
    numbers: int
    bytes: int
    raw_bytes: int
    factor: float
    error: tuple[float, ...]

    @property
    def sentence(self) -> str:
        """The same in words."""
        errors = ", ".join(f"{value:.1%}" for value in self.error)
        return (
            f"{self.entries} entries take {self.bytes / 1e6:.3g} MB, {self.factor:.1f} times less than the "
            f"features at FP16; what they decode to misses {errors} of the features' power at strides 8, 16, 32"
        )


class _Record(BaseModel):
    """What `repository.json` says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    generator: str
    identity: dict[str, Any]
    entries: int
    numbers: int
    done: tuple[_Chunk, ...] = ()
    facts: RepositoryFacts | None = None


class Entries:
    """A filled repository.

    Args:
        latents: FP16 [N, D], mapped from disk.
        codec: decodes them; frozen.
        record: what the repository says of itself.

    Attributes:
        facts: its size and quality.
        fingerprint: SHA-256 (hex) of all entries.

    """

    def __init__(self, latents: NDArray[np.float16], codec: Codec, record: _Record) -> None:
        self.latents, self.codec = latents, codec
        self.facts = _facts(record, codec)
        digests = "".join(chunk.sha256 for chunk in record.done)
        self.fingerprint = hashlib.sha256(digests.encode()).hexdigest()

    @torch.no_grad()
    def maps(self, rows: NDArray[np.int64], device: torch.device) -> list[Tensor]:
        """Decode the entries of pictures, by their numbers INT64 [B]: FP32 [B, C, h, w] of each scale."""
        return self.codec.decode(torch.from_numpy(np.asarray(self.latents[rows])).to(device))

    @classmethod
    def filled(
        cls,
        folder: Path,
        codec: Codec,
        features: Features,
        pictures: Sequence[Pixels],
        identity: Mapping[str, Any],
    ) -> Self:
        """Open the repository in a folder, and write the entries that it lacks.

        Args:
            folder: its folder, made when missing.
            codec: encodes and decodes; frozen.
            features: gives what is encoded.
            pictures: UINT8 [S, S, 3] each; their places are the numbers of the entries.
            identity: what features, codec and pictures are, as JSON values.

        Raises:
            ArtefactError: the folder holds a damaged repository, or one of other pictures, features or settings.
            OutputError: the disk is full, or files of others lie there.

        """
        folder.mkdir(parents=True, exist_ok=True)
        record = _opened(folder, len(pictures), codec.length, identity)
        latents = _mapped(folder, record)
        for number, chunk in enumerate(record.done):
            if _digest(latents[number * BATCH : (number + 1) * BATCH]) != chunk.sha256:
                raise _damaged(folder / LATENTS, "its entries are not those that were written")
        left = pictures[len(record.done) * BATCH :]
        total = -(-len(left) // BATCH)
        for batch in track(batches(left), "filling the feature repository", total=total):
            record = _added(folder, record, latents, features(batch), codec)
        if left or record.facts is None:
            record = record.model_copy(update={"facts": _facts(record, codec)})
            _write(folder, record)
        return cls(latents, codec, record)


@torch.no_grad()
def _added(
    folder: Path, record: _Record, latents: NDArray[np.float16], maps: Sequence[Tensor], codec: Codec
) -> _Record:
    """Write the next entries to disk, and then the record that counts them."""
    rows = codec.encode(maps)
    decoded = codec.decode(rows)
    missed = [float((one - other).square().sum()) for one, other in zip(maps, decoded, strict=True)]
    values = rows.cpu().numpy()
    start = len(record.done) * BATCH * values[0].nbytes
    # A map of a file cannot say that its disk is full; writing to it can.
    with room_in(folder), (folder / LATENTS).open("r+b") as file:
        file.seek(latents.offset + start)  # type: ignore[attr-defined]
        file.write(values.tobytes())
    power = [float(each.square().sum()) for each in maps]
    chunk = _Chunk(sha256=_digest(values), missed=tuple(missed), power=tuple(power))
    record = record.model_copy(update={"done": (*record.done, chunk)})
    _write(folder, record)
    return record


def _opened(folder: Path, entries: int, numbers: int, identity: Mapping[str, Any]) -> _Record:
    """Read the record of a repository, or begin one."""
    path = folder / RECORD
    told = json.loads(json.dumps(identity))
    if not path.exists():
        record = _Record(generator=f"Flawline {__version__}", identity=told, entries=entries, numbers=numbers)
        check_space(folder, 2 * entries * numbers, "the feature repository")
        check_output(folder / LATENTS, "--checkpoint")
        _write(folder, record, over=False)
        return record
    try:
        record = _Record.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, ValidationError) as error:
        raise _damaged(path, " ".join(str(error).split())[:200]) from error
    other = difference(record.identity, told)
    if other:
        msg = (
            f"{folder} is the feature repository of another training: {other}; "
            "give another folder, or remove this one to fill it anew"
        )
        raise ArtefactError(msg)
    if (record.entries, record.numbers) != (entries, numbers) or len(record.done) > -(-entries // BATCH):
        raise _damaged(path, "it counts other entries than there are pictures")
    return record


def _mapped(folder: Path, record: _Record) -> NDArray[np.float16]:
    path = folder / LATENTS
    if not record.done and not path.exists():
        with written_whole(path) as temporary:
            np.lib.format.open_memmap(temporary, "w+", np.float16, (record.entries, record.numbers)).flush()
    try:
        latents = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise _damaged(path, " ".join(str(error).split())[:200]) from error
    if latents.shape != (record.entries, record.numbers) or latents.dtype != np.float16:
        raise _damaged(path, "its shape is another one")
    return latents


def _write(folder: Path, record: _Record, *, over: bool = True) -> None:
    write_atomically(folder / RECORD, record.model_dump_json(indent=2) + "\n", over=over)


def _facts(record: _Record, codec: Codec) -> RepositoryFacts:
    raw = sum(map(math.prod, codec.shapes))
    missed = np.sum([chunk.missed for chunk in record.done], axis=0)
    power = np.sum([chunk.power for chunk in record.done], axis=0)
    return RepositoryFacts(
        entries=record.entries,
        numbers=record.numbers,
        bytes=2 * record.entries * record.numbers,
        raw_bytes=2 * record.entries * raw,
        factor=round(raw / record.numbers, 2),
        error=tuple(round(float(share), 5) for share in missed / np.maximum(power, 1e-9)),
    )


def _digest(values: NDArray[np.float16]) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def _damaged(path: Path, reason: str) -> ArtefactError:
    return ArtefactError(f"{path} is damaged ({reason}); remove {path.parent} to fill the repository anew")
