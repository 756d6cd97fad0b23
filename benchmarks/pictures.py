"""Pictures for the load generators: the files of a folder, as they are."""

from pathlib import Path

from flawline_client.cli import find_pictures


def read_pictures(folder: Path, most: int = 256) -> list[bytes]:
    """Contents of the picture files in and below `folder`, by name, evenly thinned to `most`.

    Raises:
        FileNotFoundError: the folder is not there or holds no picture.

    """
    paths = [path for path, _ in find_pictures([folder])[0]] if folder.is_dir() else []
    if not paths:
        msg = f"{folder}: no picture in this folder; name one with JPEG, PNG, BMP or TIFF files"
        raise FileNotFoundError(msg)
    return [path.read_bytes() for path in paths[:: -(-len(paths) // most)]]
