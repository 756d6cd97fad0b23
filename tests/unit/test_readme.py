"""The README says what is true today."""

import re
import subprocess
import sys
from pathlib import Path

from typer.main import get_command

from flawline.cli import app
from flawline.recipe import read_recipe

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_tables_are_the_committed_results() -> None:
    script = ROOT / "benchmarks" / "tables.py"
    outcome = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr


def test_commands_and_links_exist() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    assert set(re.findall(r"flawline ([a-z]+)(?= )", README)) <= {*commands, "serve"}
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_recipes_are_valid() -> None:
    files = sorted((ROOT / "build" / "recipes").glob("*.yaml"))
    assert [read_recipe(file).name for file in files] == [file.stem for file in files]
