"""Write the tables of README and accuracy/teachers.md from the committed results: `python benchmarks/tables.py`."""

import json
import re
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
RESULTS = Path(__file__).parent / "results"

FIGURES = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "pixel_auroc": "pixel AUROC",
    "aupro": "AUPRO",
    "recall_at_budget": "found at 1 % budget",
    "false_alarm_rate": "false alarms",
}

RANDOM = re.compile(r"random-\d+@")
"""Teachers of accuracy/random_teacher.py, one per seed."""


def accuracy_table(rows: list[dict]) -> str:
    """Mean ± sample deviation over seeds, one line per data set, detector, recipe and teacher."""
    groups = defaultdict(list)
    for row in rows:
        method = f"{row['detector']}, {row['recipe']}{_other_teacher(row['teacher'])}"
        groups[row["data"], method, row["labels_used"], _one_of_many(row["teacher"])].append(row)
    lines = [
        "| data | detector, recipe | defect labels used | seeds | " + " | ".join(FIGURES.values()) + " |",
        "| --- | --- | --- | --- |" + " --- |" * len(FIGURES),
    ]
    for (data, method, labels, _), members in sorted(groups.items()):
        cells = [_spread([row[name] for row in members]) for name in FIGURES]
        lines.append(f"| {data} | {method} | {labels} | {len(members)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def parity_table(rows: list[dict]) -> str:
    """How far each path lies from eager torch, per line."""
    lines = [
        "| line | path | pictures | decisions flipped | largest relative score difference | rank correlation |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row['line']} | {row['path']} | {row['pictures']} | {row['decisions_flipped']} "
        f"| {row['max_score_difference']:.1e} | {row['rank_correlation']:.6f} |"
        for row in rows
    ]
    return "\n".join(lines)


def speed_table(rows: list[dict]) -> str:
    """One line per case with its three figures, then the ratios of one request at a time."""
    cases = defaultdict(dict)
    for row in rows:
        case, _, figure = row["name"].rpartition(", ")
        if figure in ("throughput", "p50", "p99") and row["unit"] != "ratio":
            cases[case, row["concurrency"]][figure] = f"{row['value']:g}"
    lines = ["| asked | at a time | pictures/s | p50 ms | p99 ms |", "| --- | --- | --- | --- | --- |"]
    for (case, concurrency), figures in cases.items():
        cells = [figures.get(figure, "–") for figure in ("throughput", "p50", "p99")]
        name = case.removesuffix(f" at {concurrency}")
        lines.append(f"| {name} | {concurrency} | " + " | ".join(cells) + " |")
    lines += ["", "| ratio, in the same run | value |", "| --- | --- |"]
    alone = [row for row in rows if row["unit"] == "ratio" and row["concurrency"] == 1]
    lines += [f"| {row['name']} | {row['value']:g} |" for row in alone if ", p50, " in row["name"]]
    return "\n".join(lines)


def _one_of_many(teacher: str) -> str:
    """Random weights of all seeds are one teacher; two versions of a learned one are not."""
    return "random" if RANDOM.search(teacher) else teacher


def _other_teacher(teacher: str) -> str:
    """What to add where the teacher is not the built-in one."""
    if RANDOM.search(teacher):
        return ", teacher of random weights"
    source = teacher.rpartition("@")[0]
    return "" if source == "builtin" else f", teacher {source}"


def _spread(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    text = f"{statistics.fmean(known):.3f}"
    return f"{text} ± {statistics.stdev(known):.3f}" if len(known) > 1 else text


def teachers_table(rows: list[dict]) -> str:
    """One line per attempt at a teacher, best last, and what it did on each family in steady and unsteady light."""
    families = sorted({line.split(":")[1].split(",")[0] for row in rows for line in row["lines"]})
    lines = [
        "| teacher | stages | even exposure | steps of adaptation | image AUROC | pixel AUROC | "
        + " | ".join(families)
        + " |",
        "| --- | --- | --- | --- | --- | --- |" + " --- |" * len(families),
    ]
    for row in sorted(rows, key=lambda row: (row["adapt_steps"] > 0, row["image_auroc"])):
        stages = ", ".join(map(str, row["layers"]))
        head = f"| {row['teacher']} ({row['fingerprint']}) | {stages} | {'yes' if row['even_exposure'] else 'no'} "
        head += f"| {row['adapt_steps'] or '–'} | {row['image_auroc']:.3f} | {row['pixel_auroc']:.3f} "
        cells = [
            " / ".join(f"{each['image_auroc']:.2f}" for line, each in row["lines"].items() if family in line)
            for family in families
        ]
        lines.append(head + "| " + " | ".join(cells) + " |")
    return "\n".join(lines)


TABLES = {
    README: {"accuracy": accuracy_table, "parity": parity_table, "speed": speed_table},
    Path(__file__).parent / "accuracy" / "teachers.md": {"teachers": teachers_table},
}
"""What each document shows, by the mark that stands around it."""


def render(text: str, tables: dict[str, Callable[[list[dict]], str]]) -> str:
    """A document with the text between each pair of table marks replaced."""
    for name, make in tables.items():
        rows = json.loads((RESULTS / f"{name}.json").read_text())
        before, rest = text.split(f"<!-- table {name} -->\n", 1)
        _, after = rest.split("<!-- end of table -->", 1)
        text = f"{before}<!-- table {name} -->\n{make(rows)}\n<!-- end of table -->{after}"
    return text


if __name__ == "__main__":
    for document, tables in TABLES.items():
        old = document.read_text()
        new = render(old, tables)
        if "--check" in sys.argv and old != new:
            sys.exit(f"{document.name} differs from benchmarks/results: run python benchmarks/tables.py")
        if old != new:
            document.write_text(new)
