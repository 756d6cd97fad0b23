"""Leave pictures out of training by name, such as good ones that turned out not to be good."""

import re
from dataclasses import replace
from pathlib import Path

from flawline.data.sample import Dataset, Sample, Split
from flawline.errors import DataError
from flawline.progress import say
from flawline_client.folders import shown

_COMMENT = re.compile(r"(^|\s)#.*")
"""Not within a name, such as part#3.png."""


def leave_out(dataset: Dataset, file: Path | None) -> Dataset:
    """Return a data set without the listed training pictures; a listed test picture stays, and is told.

    Args:
        dataset: pictures of a line, split already: what is left out moves no other picture.
        file: text file in UTF-8 with one picture a line, by its path (also as seen from the data set's folder) or
            by its title, which is folder and file name; empty lines and comments, from # on, are skipped. None
            leaves nothing out.

    Raises:
        DataError: the file cannot be read or lists nothing, a name is that of no picture or of several.

    """
    if file is None:
        return dataset
    try:
        lines = file.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
    except OSError as error:
        msg = f"{file}: the list of pictures to leave out cannot be read ({error}); give a text file"
        raise DataError(msg) from error
    names = [name for line in lines if (name := _COMMENT.sub("", line).strip())]
    if not names:
        msg = f"{file}: lists no picture to leave out; write one path or folder/name a line"
        raise DataError(msg)
    by_path = {sample.image.resolve(): sample for sample in dataset.samples}
    # Of one title in training and in test, the one for training is meant.
    train, test = _by_title(dataset, "train"), _by_title(dataset, "test")
    listed = set()
    for name in names:
        places = [(place / name).resolve() for place in (Path(), dataset.root)]
        found = [by_path[place] for place in places if place in by_path][:1]
        found = found or train.get(name) or test.get(name, [])
        if len(found) != 1:
            several = f"names {len(found)} pictures" if found else "is no picture"
            msg = (
                f"{file}: '{shown(name)[:200]}' {several} of {dataset.name}; "
                "give the path of one, or its folder and file name"
            )
            raise DataError(msg)
        listed.add(found[0])
    dropped = {sample for sample in listed if sample.split == "train"}
    if not dropped:
        msg = f"{file}: all {len(listed)} listed pictures are for testing; list training pictures"
        raise DataError(msg)
    kept = tuple(sample for sample in dataset.samples if sample not in dropped)
    told = f"Left out {len(dropped)} of {len(dataset.samples) - len(dataset.test)} training pictures"
    if len(listed) > len(dropped):
        told += f"; {len(listed) - len(dropped)} that were listed are for testing and stay"
    say(f"{told}.")
    return replace(dataset, name=f"{dataset.name} without {len(dropped)}", samples=kept)


def _by_title(dataset: Dataset, split: Split) -> dict[str, list[Sample]]:
    titles: dict[str, list[Sample]] = {}
    for sample in dataset.samples:
        if sample.split == split:
            titles.setdefault(sample.title, []).append(sample)
    return titles
