"""Write the README's tables from the committed results: `python benchmarks/tables.py`."""

import json
import statistics
import sys
from collections import defaultdict
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


def accuracy_table(rows: list[dict]) -> str:
    """Mean ± sample deviation over seeds, one line per data set, detector and recipe."""
    groups = defaultdict(list)
    for row in rows:
        groups[row["data"], row["detector"], row["recipe"], row["labels_used"]].append(row)
    lines = [
        "| data | detector, recipe | defect labels used | seeds | " + " | ".join(FIGURES.values()) + " |",
        "| --- | --- | --- | --- |" + " --- |" * len(FIGURES),
    ]
    for (data, detector, recipe, labels), members in sorted(groups.items()):
        cells = [_spread([row[name] for row in members]) for name in FIGURES]
        lines.append(
            f"| {data} | {detector}, {recipe} | {labels} | {len(members)} | " + " | ".join(cells) + " |"
        )
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


def _spread(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    text = f"{statistics.fmean(known):.3f}"
    return f"{text} ± {statistics.stdev(known):.3f}" if len(known) > 1 else text


def render(readme: str) -> str:
    """The README with the text between each pair of table marks replaced."""
    for name, make in (("accuracy", accuracy_table), ("parity", parity_table), ("speed", speed_table)):
        rows = json.loads((RESULTS / f"{name}.json").read_text())
        before, rest = readme.split(f"<!-- table {name} -->\n", 1)
        _, after = rest.split("<!-- end of table -->", 1)
        readme = f"{before}<!-- table {name} -->\n{make(rows)}\n<!-- end of table -->{after}"
    return readme


if __name__ == "__main__":
    old = README.read_text()
    new = render(old)
    if "--check" in sys.argv:
        sys.exit(old != new and "README.md differs from benchmarks/results: run python benchmarks/tables.py")
    README.write_text(new)
