"""Every command and program of README and docs/, run in a reader's order in one folder, with a real server.

Blocks marked `sh` and `python` are run as they stand. Blocks marked `console` are not: they need a network, Docker
or hours, or test_windowed_lines.py runs the same command; tests/unit/test_documents.py checks their options.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from flawline.data import Dataset
from flawline.data.surfaces import SurfaceOptions, load

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from documents import DOCUMENTS, ROOT, blocks, command_lines

pytestmark = [pytest.mark.server, pytest.mark.timeout(900)]

DOORS = {"grpc": 8001, "http": 8000, "metrics": 8002}
"""Ports that the documents name."""
GOOD, MORE = 26, 17
"""Good pictures: of the first, `auto` needs 15 for training; of the others, `calibrate` needs 10."""
PATIENCE = 300
"""Seconds that one command may take on a busy machine."""


def prepare(place: Path) -> None:
    """What the documents take for granted: pictures, and the recipes of this repository."""
    options = SurfaceOptions(
        normals=GOOD + MORE, test_normals=1, test_defects=6, train_defects=0, contrast=2.0
    )
    root, samples = load(options, cache=place / "drawn")
    drawn = Dataset(options.spec(), root, samples)
    pictures = place / "pictures"
    for number, sample in enumerate(drawn.train_normals):
        part = "tiles" if number < GOOD else "more"
        target = pictures / part / "good" / sample.image.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(sample.image, target)
    (pictures / "new").mkdir()
    for number, sample in enumerate(drawn.test, start=7):
        with Image.open(sample.image) as image:
            image.save(pictures / "new" / f"{number}.jpg")
        if sample.mask is not None:
            # One class, so that one defect is for training: banks learn faster from it than from synthetic ones.
            for file, folder in ((sample.image, "defect"), (sample.mask, "masks/defect")):
                target = pictures / "tiles" / folder / f"{number}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, target)
    listed = (
        f"good/{sample.image.name}\n" for sample in drawn.train_normals[:4]
    )  # of which some are for training
    (pictures / "not-good.txt").write_text("".join(listed))
    (place / "build").symlink_to(ROOT / "build")


class Reader:
    """Does what the documents say, in their order; a server that they start runs until they start another."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.read: list[Path] = []
        self.ports = _free_ports()
        self.environment = {
            **os.environ,
            "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
        }
        self.server: subprocess.Popen[bytes] | None = None

    def follow(self, document: Path) -> None:
        """Run the blocks of a document, and of those before it that were not read yet."""
        for each in DOCUMENTS[: DOCUMENTS.index(document) + 1]:
            if each not in self.read:
                self.read.append(each)
                for block in blocks(each):
                    if block.language == "python":
                        self.run(["python", "-c", self.at_our_ports(block.text)])
                    elif block.language == "sh":
                        for words in command_lines(self.at_our_ports(block.text)):
                            self.obey(words)

    def obey(self, words: list[str]) -> None:
        if words[:2] == ["flawline", "serve"]:
            self.serve(words)
            return
        if words[0] == "curl" and shutil.which("curl") is None:
            return
        if words[:2] == ["flawline", "inspect"]:
            words = [*words, "--url", f"127.0.0.1:{self.ports['grpc']}"]
        self.run(words)
        for word in words:
            if word.startswith("out/"):
                assert (self.place / word).exists(), f"{' '.join(words)} did not write {word}"

    def run(self, words: list[str]) -> None:
        outcome = subprocess.run(
            words,
            cwd=self.place,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert outcome.returncode == 0, f"{' '.join(words)}\n{outcome.stdout}\n{outcome.stderr}"

    def serve(self, words: list[str]) -> None:
        self.stop()
        ports = [part for name, port in self.ports.items() for part in (f"--{name}-port", str(port))]
        log = self.place / "serve.log"
        with log.open("wb") as file:
            self.server = subprocess.Popen(
                [*words, *ports], cwd=self.place, env=self.environment, stdout=file, stderr=file
            )
        end = time.monotonic() + PATIENCE
        while "ready: tiles" not in log.read_text(errors="replace"):
            assert self.server.poll() is None, log.read_text(errors="replace")
            assert time.monotonic() < end, log.read_text(errors="replace")
            time.sleep(0.1)

    def stop(self) -> None:
        """Ctrl-C, as a reader would."""
        if self.server is not None:
            self.server.send_signal(signal.SIGINT)
            assert self.server.wait(timeout=60) == 0
            self.server = None

    def at_our_ports(self, text: str) -> str:
        """The documented addresses, unless these ports are taken here."""
        for name, port in DOORS.items():
            text = text.replace(f"127.0.0.1:{port}", f"127.0.0.1:<{name}>")
        for name, port in self.ports.items():
            text = text.replace(f"<{name}>", str(port))
        return text


def _free_ports() -> dict[str, int]:
    if all(_is_free(port) for port in DOORS.values()):
        return DOORS
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in DOORS]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return dict(zip(DOORS, ports, strict=True))


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    place = tmp_path_factory.mktemp("reader")
    prepare(place)
    reader = Reader(place)
    yield reader
    reader.stop()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_what_a_document_says_can_be_done(reader: Reader, document: Path) -> None:
    reader.follow(document)


def test_every_new_picture_was_drawn_upon(reader: Reader) -> None:
    reader.follow(DOCUMENTS[0])
    asked = {path.stem for path in (reader.place / "pictures" / "new").iterdir()}
    assert {path.stem for path in (reader.place / "out" / "overlays").iterdir()} == asked
