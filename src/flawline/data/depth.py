"""Pictures of more than eight bits a channel: how many bits a line's pictures fill.

Cameras of 10, 12 or 14 bits write files of 16, and fill the lower bits or the upper ones. A line looks at values
from 0 (black) to 2^bits - 1 (white), where bits are the fewest that hold the brightest value of its good training
pictures. They are the line's own and not each picture's: a dark picture stays dark. What is brighter is white.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from flawline.data.sample import Dataset, Sample
from flawline.errors import DataError, PictureError
from flawline.progress import say, track
from flawline.scoring.picture import EIGHT, MOST_BITS, held_bits, white_of
from flawline_client.folders import shown

DARK = 1 / 8
"""A line whose brightest value lies below this share of white is said to be dark."""


def depth_statement(bits: int) -> str:
    """How values are read, in words."""
    return f"values of {bits} bits; {white_of(bits)} and all above it is white"


def at_bits(samples: Iterable[Sample], bits: int) -> tuple[Sample, ...]:
    """Return samples that are read as pictures whose values fill so many bits."""
    return tuple(sample if sample.bits == bits else replace(sample, bits=bits) for sample in samples)


def with_learnt_bits(dataset: Dataset, *, tell: bool = True) -> Dataset:
    """Return a data set whose pictures are read at the bits that its good training pictures fill.

    Args:
        dataset: pictures of a line.
        tell: whether the bits are said where they are more than eight.

    Raises:
        DataError: some of its pictures have eight bits a channel and others more.

    """
    held = {sample: bits for sample in dataset.samples if (bits := _held(sample))}
    deep = [sample for sample, bits in held.items() if bits > EIGHT]
    if not deep:
        return dataset
    if len(deep) < len(held):
        other = next(sample for sample, bits in held.items() if bits <= EIGHT)
        msg = (
            f"{dataset.name} has {len(deep)} pictures of more than eight bits a channel, such as "
            f"{shown(deep[0].image)}, and {len(held) - len(deep)} of eight, such as {shown(other.image)}; "
            "a line takes one kind: save all alike"
        )
        raise DataError(msg)
    brightest = _brightest_of(dataset)
    bits = min(max(brightest.bit_length(), EIGHT + 1), MOST_BITS)
    share = brightest / white_of(bits)
    dark = "; the pictures are dark, give them more light or exposure" if share < DARK else ""
    if tell:
        say(
            "The pictures have more than eight bits a channel. The brightest value of the "
            f"{len(dataset.train_normals)} good training pictures is {brightest}: values are read as {bits} bits, "
            f"{white_of(bits)} is white{dark}."
        )
    return replace(dataset, samples=at_bits(dataset.samples, bits))


def with_bits_of_line(dataset: Dataset, bits: int) -> Dataset:
    """Return a data set whose pictures are read at the bits of a line that is there.

    Raises:
        DataError: the line looks at more than eight bits and a picture has eight, or its good training pictures are
            brighter than the line's white.

    """
    if bits > EIGHT:
        check_kind(dataset.samples, bits, dataset.name)
        brightest = _brightest_of(dataset)
        if brightest > 2 * white_of(bits):
            msg = (
                f"the brightest value of the good pictures of {dataset.name} is {brightest}, and the line's white "
                f"is {white_of(bits)}, so that they would be mostly white; they are of another camera or exposure: "
                "build a line from them"
            )
            raise DataError(msg)
    return replace(dataset, samples=at_bits(dataset.samples, bits))


def check_kind(samples: Iterable[Sample], bits: int, name: str) -> None:
    """Raise DataError, naming the first, for pictures of eight bits beside a line of more, or the other way."""
    for sample in samples:
        held = _held(sample)
        if held and (held > EIGHT) != (bits > EIGHT):
            kinds = ("eight", "more than eight")
            msg = (
                f"{shown(sample.image)} of {name} has {kinds[held > EIGHT]} bits a channel, and the line looks at "
                f"{kinds[bits > EIGHT]}; give files as the line's camera writes them"
            )
            raise DataError(msg)


def _brightest_of(dataset: Dataset) -> int:
    normals = at_bits(dataset.train_normals, MOST_BITS)
    with ThreadPoolExecutor() as pool:
        tops = track(pool.map(_brightest, normals), "measuring brightness", total=len(normals))
        return max(tops, default=white_of(MOST_BITS))


def _held(sample: Sample) -> int:
    """Bits a channel of a picture; 0 where the file cannot be read, which its reader says better."""
    try:
        return held_bits(sample.image)
    except PictureError:
        return 0


def _brightest(sample: Sample) -> int:
    return int(sample.read_values().max())
