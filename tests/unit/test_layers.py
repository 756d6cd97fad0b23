"""Imports point one way: a module of the library imports only from its own layer's folder and from layers below."""

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

LIBRARY = Path(__file__).parents[2] / "src" / "flawline"
LAYERS = (
    {"cli", "demo"},
    {"jobs"},
    {"recipe"},
    {"detectors", "report"},
    {"teachers", "synthesis", "training", "data", "repository", "serving"},
    {"artefact"},
    {"targets"},
    {"scoring"},
    {"registry", "progress", "files", "durations", "memory", "cpus", "errors", "privacy"},
)
"""Folders and top modules, the highest first."""
BESIDE = {
    ("detectors", "report"): False,
    ("teachers", "training"): True,
    ("synthesis", "training"): True,
    ("synthesis", "teachers"): True,
    ("synthesis", "data"): True,
    ("serving", "repository"): True,
}
"""Which folders of one layer may import which others."""
WITHOUT_TORCH = {"scoring", "targets", "artefact", "serving", "repository"}


def imports(path: Path) -> Iterator[str]:
    """Modules of Flawline that a file imports, also inside functions; not those for type checkers alone."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(module: str) -> str:
    return module.split(".")[1]


def level(name: str) -> int:
    return next(number for number, layer in enumerate(LAYERS) if name in layer)


@pytest.mark.parametrize("path", sorted(LIBRARY.rglob("*.py")), ids=lambda p: str(p.relative_to(LIBRARY)))
def test_imports_point_down(path: Path) -> None:
    here = path.relative_to(LIBRARY).parts[0].removesuffix(".py")
    if here == "__init__":
        return
    for module in imports(path):
        if not module.startswith("flawline.") or room(module) in ("__version__", here):
            continue
        there = room(module)
        if level(there) == level(here) and level(here) < len(LAYERS) - 1:
            assert BESIDE.get((here, there)), f"{here} imports {module}, which is beside it"
        assert level(there) >= level(here), f"{here} imports {module}, which is above it"


def test_a_server_needs_no_torch() -> None:
    for folder in WITHOUT_TORCH:
        for path in (LIBRARY / folder).rglob("*.py"):
            for module in imports(path):
                assert module.split(".")[0] not in ("torch", "transformers", "diffusers"), path


def test_no_two_modules_have_one_name_for_two_things() -> None:
    """But for the same thing of each detector: its part, its settings, its network."""
    of_detectors = {"part", "config", "model"}
    paths = [p for p in LIBRARY.rglob("*.py") if p.stem not in ("__init__", "__main__")]
    names = Counter(p.stem for p in paths if not (p.stem in of_detectors and "detectors" in p.parts))
    folders = {p.name for p in LIBRARY.rglob("*") if p.is_dir()}
    assert [name for name, count in names.items() if count > 1] == []
    assert sorted(set(names) & (folders | of_detectors)) == []
    assert sorted(set(names) & set(sys.stdlib_module_names)) == []
