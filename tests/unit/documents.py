"""README and docs/ as the tests of documents see them: fenced blocks, commands, links."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
IN_ORDER = (
    "your-line",
    "promise",
    "serving",
    "kubernetes",
    "results",
    "methods",
    "extending",
    "troubleshooting",
)
"""How a reader goes through docs/, and in which order their commands are run."""
DOCUMENTS = (README, *(ROOT / "docs" / f"{name}.md" for name in IN_ORDER))

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block: `language` behind the fence, and the lines in it."""

    document: Path
    language: str
    text: str


def blocks(document: Path) -> list[Block]:
    return [Block(document, *found.groups()) for found in _FENCE.finditer(document.read_text())]


def command_lines(text: str) -> Iterator[list[str]]:
    """Words of each command of a shell block; lines that end in a backslash go on."""
    for line in text.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def flawline_commands(document: Path) -> Iterator[list[str]]:
    """Every `flawline ...` that a document shows, in blocks and within sentences."""
    prose = _FENCE.sub("", document.read_text())
    for block in blocks(document):
        if block.language in ("sh", "console"):
            yield from (words for words in _words(block.text) if words[0] == "flawline")
    for span in _SPAN.findall(prose):
        if span.startswith("flawline "):
            yield span.split()


def _words(text: str) -> Iterator[list[str]]:
    for line in text.replace("\\\n", " ").splitlines():
        if words := line.split("#")[0].split():
            yield words


def options(document: Path) -> set[str]:
    """Options named in a sentence by themselves, such as `--budget 20m`."""
    prose = _FENCE.sub("", document.read_text())
    return {span.split()[0] for span in _SPAN.findall(prose) if span.startswith("--")}


def anchors(document: Path) -> set[str]:
    """Names of a document's headings in links, as GitHub makes them."""
    prose = _FENCE.sub("", document.read_text())
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in _HEADING.findall(prose))
    return {heading.replace(" ", "-") for heading in plain}


def links(document: Path) -> list[str]:
    return _LINK.findall(_FENCE.sub("", document.read_text()))
