"""README and docs/ say what is true today; tests/integration/test_document_commands.py runs their commands."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from documents import DOCUMENTS, README, ROOT, anchors, blocks, flawline_commands, links, options
from typer.main import get_command

from flawline.cli import app
from flawline.recipe import read_recipe

COMMANDS = get_command(app).commands  # type: ignore[attr-defined]
OPTIONS = {
    name: {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for name, command in COMMANDS.items()
}
FOREIGN = {
    "--",
    "--exit-timeout-secs",
    "--floor",
    "--model-config-name=native",
    "--pretexts",
    "--seed",
    "--steps",
}
"""Options of other programs, told in sentences: of benchmarks, pre-training and tritonserver."""
SOURCES = ("src", "clients", "model_repository")


def test_tables_are_the_committed_results() -> None:
    script = ROOT / "benchmarks" / "tables.py"
    outcome = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr


def test_the_readme_is_short() -> None:
    assert len(README.read_bytes()) <= 8000


def test_every_document_is_run() -> None:
    assert set(DOCUMENTS) == {README, *(ROOT / "docs").glob("*.md")}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_commands_and_options_exist(document: Path) -> None:
    for words in flawline_commands(document):
        assert words[1] in COMMANDS, " ".join(words)
        own = words[2 : words.index("--") if "--" in words else None]  # behind it are those of tritonserver
        named = {word.partition("=")[0] for word in own if word.startswith("--")}
        assert named <= OPTIONS[words[1]], " ".join(words)
    assert options(document) - FOREIGN - set().union(*OPTIONS.values()) == set()


def test_every_command_is_shown() -> None:
    shown = {words[1] for document in DOCUMENTS for words in flawline_commands(document)}
    assert shown == set(COMMANDS)


@pytest.mark.parametrize("document", [*DOCUMENTS, ROOT / "SECURITY.md"], ids=lambda path: path.stem)
def test_links_lead_somewhere(document: Path) -> None:
    for link in links(document):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_shell_blocks_say_whether_they_are_run() -> None:
    known = {"sh", "python", "yaml", "console", "csv", "toml"}
    assert {block.language for document in DOCUMENTS for block in blocks(document)} <= known


def test_recipes_are_valid(tmp_path: Path) -> None:
    files = sorted((ROOT / "build" / "recipes").glob("*.yaml"))
    assert [read_recipe(file).name for file in files] == [file.stem for file in files]
    shown = [block for document in DOCUMENTS for block in blocks(document) if block.language == "yaml"]
    assert shown
    for block in shown:
        (tmp_path / "shown.yaml").write_text(block.text)
        read_recipe(tmp_path / "shown.yaml")


def _sentences() -> str:
    """Every text in the sources, a line each, with an ellipsis where a value is put in."""
    found = []
    for folder in SOURCES:
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
                    found.append("".join(map(str, parts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return "\n".join(" ".join(text.split()) for text in found)


def test_troubleshooting_quotes_what_is_really_said() -> None:
    said = _sentences()
    rows = re.findall(r"^\| (`[^|]+`) \|", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)
    quotes = [row.strip("`") for row in rows if row.count("`") == 2]
    assert len(quotes) > 30
    patterns = {quote: ".*".join(re.escape(piece.strip()) for piece in quote.split("…")) for quote in quotes}
    assert [quote for quote, pattern in patterns.items() if not re.search(pattern, said)] == []
