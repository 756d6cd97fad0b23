"""Write the tables of README.md and docs/results.md from the committed results: `python benchmarks/tables.py`."""

import json
import re
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

from accuracy.ablation_tables import ABLATIONS, all_settings

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCUMENT = ROOT / "docs" / "results.md"
RESULTS = Path(__file__).parent / "results"

FIGURES = {
    "recall_at_budget": "found at 1 % budget",
    "false_alarm_rate": "false alarms",
    "located_at_budget": "found and located",
    "found_at_1": "found at 1 % (ROC)",
    "found_at_2": "found at 2 % (ROC)",
    "found_at_5": "found at 5 % (ROC)",
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "pixel_auroc": "pixel AUROC",
    "aupro": "AUPRO",
}
"""Columns of the table of accuracy, the operating point first; those that no row has are left out."""

HEADLINES = {
    ("kolektorsdd:kolektorsdd", "exdd", "synthetic"): "KolektorSDD (cracks)",
    ("kolektorsdd:kolektorsdd", "exdd", "patchcore"): "the same",
    ("kolektorsdd:kolektorsdd", "exdd", "exdd"): "the same, and 30 labelled defects",
    ("magnetic_tile:magnetic_tile", "exdd", "synthetic"): "Magnetic Tile (five kinds)",
    ("magnetic_tile:magnetic_tile", "exdd", "patchcore"): "the same",
    ("magnetic_tile:magnetic_tile", "exdd", "exdd"): "the same, and 76 labelled defects",
    ("surfaces", "exdd", "patchcore"): "generated weave",
}
"""Rows of README's table by data set, detector and recipe, and what it calls the data."""

DEFAULT_TEACHER = "efficientnet_lite0"
RANDOM = re.compile(r"random-\d+@")
"""Teachers of accuracy/random_teacher.py, one per seed."""


def accuracy_table(rows: list[dict]) -> str:
    """Mean ± sample deviation over seeds, one line per data set, detector, recipe and teacher."""
    groups = defaultdict(list)
    for row in rows:
        method = f"{row['detector']}, {row['recipe']}{_other_teacher(row['teacher'])}"
        groups[row["data"], method, row["labels_used"], _one_of_many(row["teacher"])].append(row)
    figures = {name: title for name, title in FIGURES.items() if any(name in row for row in rows)}
    lines = [
        "| data | detector, recipe | defect labels used | seeds | " + " | ".join(figures.values()) + " |",
        "| --- | --- | --- | --- |" + " --- |" * len(figures),
    ]
    for (data, method, labels, _), members in sorted(groups.items()):
        cells = [_spread([row.get(name) for row in members]) for name in figures]
        lines.append(f"| {data} | {method} | {labels} | {len(members)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def headline_table(rows: list[dict]) -> str:
    """What a line finds at its budget and what it costs, for HEADLINES: means over seeds."""
    lines = [
        "| pictures | detector, recipe | seeds | found | called defective | found at 1 / 2 / 5 % | image AUROC |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (data, detector, recipe), title in HEADLINES.items():
        members = [
            row
            for row in rows
            if (row["data"], row["detector"], row["recipe"]) == (data, detector, recipe)
            and not RANDOM.search(row["teacher"])
        ]
        found, alarms, at_1, at_2, at_5, auroc = (
            statistics.fmean(row[name] for row in members)
            for name in (
                "recall_at_budget",
                "false_alarm_rate",
                "found_at_1",
                "found_at_2",
                "found_at_5",
                "image_auroc",
            )
        )
        curve = f"{100 * at_1:.0f} / {100 * at_2:.0f} / {100 * at_5:.0f} %"
        shares = f"{100 * found:.0f} % | {100 * alarms:.1f} % | {curve}"
        lines.append(f"| {title} | `{detector}`, {recipe} | {len(members)} | {shares} | {auroc:.2f} |")
    return "\n".join(lines)


SERVED = ("ensemble", "ensemble pixels", "fused")
"""Paths of results/parity.json that a real server answers."""


def scores_table(rows: list[dict]) -> str:
    """One line per figure that may speak for a picture: image AUROC / found at 1 % of false alarms, by sets."""
    kinds = {
        "ten generated lines": lambda data: data.startswith("surfaces"),
        "held-out Magnetic Tile": lambda data: "magnetic_tile-" in data,
        "held-out KolektorSDD": lambda data: "kolektorsdd-" in data,
        "test of Magnetic Tile": lambda data: data == "magnetic_tile:magnetic_tile",
        "test of KolektorSDD": lambda data: data == "kolektorsdd:kolektorsdd",
    }
    lines = [
        "| score of a picture | " + " | ".join(kinds) + " |",
        "| --- |" + " --- |" * len(kinds),
    ]
    for score in dict.fromkeys(row["score"] for row in rows):
        cells = []
        for belongs in kinds.values():
            members = [row for row in rows if row["score"] == score and belongs(row["data"])]
            means = [statistics.fmean(row[name] for row in members) for name in ("image_auroc", "found_at_1")]
            cells.append(f"{means[0]:.3f} / {means[1]:.2f}")
        lines.append(f"| {score} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def colour_table(rows: list[dict]) -> str:
    """One line per generated line: image AUROC / found at 1 % of false alarms, without colour and with it."""
    lines = ["| line | its defects | features alone | and colour |", "| --- | --- | --- | --- |"]
    measured = {
        (row["data"], row["colour"]): f"{row['image_auroc']:.3f} / {row['found_at_1']:.2f}" for row in rows
    }
    for data in dict.fromkeys(row["data"] for row in rows):
        options = data.removeprefix("surfaces:").split(",")
        family = "woven" if "=" in options[0] else options[0]
        light = "unsteady light" if any(option.startswith("light=") for option in options) else "steady light"
        kind = next((option[5:] for option in options if option.startswith("kind=")), "all others")
        lines.append(f"| {family}, {light} | {kind} | {measured[data, False]} | {measured[data, True]} |")
    return "\n".join(lines)


def promise_table(rows: list[dict]) -> str:
    """One line per generated line: what was promised, what alarmed, what was found."""
    lines = [
        "| line | good pictures to learn from | promised | alarmed | interval | answer | found |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in sorted(rows, key=lambda row: (row["family"], row["seed"], row["normals"])):
        promise = row["promise"]
        lines.append(
            f"| {row['family']} | {row['normals']} | {promise['budget']:.2%} | {promise['alarmed']} of "
            f"{promise['normals']} | {promise['low']:.1%} to {promise['high']:.1%} | {promise['answer']} | "
            f"{row['found']:.0%} |"
        )
    return "\n".join(lines)


def parity_table(rows: list[dict]) -> str:
    """How far the paths of each line lie from eager torch: the largest relative score difference of each."""
    lines = [
        "| line | pictures | decisions flipped on any path | exported graph | compiled target | served |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for line in dict.fromkeys(row["line"] for row in rows):
        members = [row for row in rows if row["line"] == line]
        furthest = [
            max(row["max_score_difference"] for row in members if row["path"] in paths)
            for paths in (("graph",), ("target",), SERVED)
        ]
        flipped = sum(row["decisions_flipped"] for row in members)
        pictures = max(row["pictures"] for row in members)
        cells = " | ".join(f"{value:.1e}" for value in furthest)
        lines.append(f"| {line} | {pictures} | {flipped} | {cells} |")
    return "\n".join(lines)


HELD = ("fused_over_bare", "ensemble_over_fused", "decision_over_map", "p99_over_p50")
"""Ratios that changes to serving are held against; see benchmarks/speed.py."""


def speed_table(rows: list[dict]) -> str:
    """One line per case with its three figures, then the ratios of one request at a time, and those held to.

    Where lines of several detectors were measured, each row names its own.
    """
    several = len({row.get("detector") for row in rows}) > 1
    if several:
        rows = [{**row, "name": f"{row.get('detector')}: {row['name']}"} for row in rows]
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
    held = [row for row in rows if row["name"].rpartition(": ")[2] in HELD]
    lines += [f"| `{row['name']}`, {row['concurrency']} at a time | {row['value']:g} |" for row in held]
    return "\n".join(lines)


def _one_of_many(teacher: str) -> str:
    """Random weights of all seeds are one teacher; two versions of a learned one are not."""
    return "random" if RANDOM.search(teacher) else teacher


def _other_teacher(teacher: str) -> str:
    """What to add where the teacher is not the default one."""
    if RANDOM.search(teacher):
        return ", teacher of random weights"
    source = teacher.rpartition("@")[0]
    return "" if source == DEFAULT_TEACHER else f", teacher {source}"


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


ABLATION_DATA = ("magnetic_tile:magnetic_tile", "kolektorsdd:kolektorsdd")
"""Data sets that tables of ablations show even where nothing is measured yet."""
ABLATION_FIGURES = ("image_auroc", "pixel_auroc", "aupro")


def ablation_table(name: str, rows: list[dict]) -> str:
    """One line per variant and length of training: mean ± sample deviation over seeds, on each data set."""
    ablation = ABLATIONS[name]
    wanted = {name: all_settings(ablation.detector, each) for name, each in ablation.variants.items()}
    default = all_settings(ablation.detector, {})
    rows = [r for r in rows if r["detector"] == ablation.detector and r["settings"] in wanted.values()]
    sets = list(dict.fromkeys((*ABLATION_DATA, *sorted(row["data"] for row in rows))))
    teachers = {row["teacher"] for row in rows}
    heads = [f"{_short(data)}, {FIGURES[figure]}" for data in sets for figure in ABLATION_FIGURES]
    lines = [
        "| variant | steps of training | seeds | " + " | ".join(heads) + " |",
        "| --- | --- | --- |" + " --- |" * len(heads),
    ]
    for variant, settings in wanted.items():
        groups = defaultdict(list)
        for row in rows:
            if row["settings"] == settings:
                groups[_trained(row), row["teacher"]].append(row)
        for (trained, teacher), members in sorted(groups.items()) or [(("–", ""), [])]:
            cells = [
                _spread([row[figure] for row in members if row["data"] == data])
                for data in sets
                for figure in ABLATION_FIGURES
            ]
            title = f"{variant} (default)" if settings == default else variant
            title += f", teacher {teacher}" if teacher and len(teachers) > 1 else ""
            seeds = len({row["seed"] for row in members}) or "–"
            lines.append(f"| {title} | {trained} | {seeds} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _trained(row: dict) -> str:
    """Steps of the student and of the diffusion model, as far as there are such."""
    student, diffusion = row["steps"], row["ddpm_steps"]
    parts = [str(student)] * (student is not None) + [f"diffusion {diffusion}"] * (diffusion is not None)
    return ", ".join(parts) or "–"


def _short(data: str) -> str:
    """`magnetic_tile` for magnetic_tile:magnetic_tile."""
    layout, _, rest = data.partition(":")
    return layout if layout == rest else data


def fusion_table(recipe: str | None, rows: list[dict]) -> str:
    """One line per rule: mean over the lines, best image figure last, and what each line says.

    `recipe` is that of the rows; None takes those of no recipe, whose options stand in their commands.
    """
    rows = [row for row in rows if row.get("recipe") == recipe]
    lines = list(dict.fromkeys((row["line"], row["detector"]) for row in rows))
    table = [
        "| rule | image AUROC | AUPRO | " + " | ".join(_fused_line(*line) for line in lines) + " |",
        "| --- | --- | --- |" + " --- |" * len(lines),
    ]
    rules = {
        rule: {(r["line"], r["detector"]): r for r in rows if r["rule"] == rule}
        for rule in dict.fromkeys(row["rule"] for row in rows)
    }
    means = {
        rule: [statistics.fmean(row[figure] for row in found.values()) for figure in ("image_auroc", "aupro")]
        for rule, found in rules.items()
    }
    for rule in sorted(rules, key=lambda rule: means[rule]):
        cells = [
            f"{rules[rule][line]['image_auroc']:.3f} / {rules[rule][line]['aupro']:.3f}" for line in lines
        ]
        table.append("| " + " | ".join([rule, *(f"{mean:.3f}" for mean in means[rule]), *cells]) + " |")
    return "\n".join(table)


def _fused_line(line: str, detector: str) -> str:
    """`woven`, or `magnetic_tile-0, ddpm_ast` for the first draw of held-out pictures of a real set."""
    layout, _, rest = line.partition(":")
    if layout == "surfaces":
        return rest.split(",")[0]
    return f"{rest.rpartition('/')[2]}, {detector.partition('+')[0]}"


def auto_table(rows: list[dict]) -> str:
    """One line per search: what was chosen, what was best on the test split; then how often both are one."""
    lines = [
        "| data | recipe | seed | tried | chosen | best by test | AUROC, chosen / best | found, chosen / best |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    searches = defaultdict(list)
    for row in rows:
        searches[row["data"], row["recipe"], row["seed"], row["teacher"]].append(row)
    lost = {"auto": [], "always the first candidate": []}
    for (data, recipe, seed, _), members in searches.items():
        best = max(members, key=lambda row: row["image_auroc"] + row["found"])
        chosen = next(row for row in members if row["chosen"])
        first = min(members, key=lambda row: row["order"])
        for name, taken in (("auto", chosen), ("always the first candidate", first)):
            lost[name].append([best[figure] - taken[figure] for figure in ("image_auroc", "found")])
        pairs = [f"{chosen[figure]:.3f} / {best[figure]:.3f}" for figure in ("image_auroc", "found")]
        cells = [data, recipe, str(seed), str(len(members)), _candidate(chosen), _candidate(best), *pairs]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "| choice | is the best by test | image AUROC lost | found lost |",
        "| --- | --- | --- | --- |",
    ]
    for name, each in lost.items():
        auroc, found = (statistics.fmean(loss) for loss in zip(*each, strict=True))
        right = sum(loss == [0, 0] for loss in each)
        lines.append(f"| {name} | {right} of {len(each)} | {auroc:.3f} | {found:.3f} |")
    return "\n".join(lines)


def _candidate(row: dict) -> str:
    return f"`{row['detector']}`, {row['size']}, {'evened' if row['even_exposure'] else 'as it is'}"


def graph_cost_table(rows: list[dict]) -> str:
    """One line per graph, cheapest first."""
    lines = ["| graph | ms | times the teacher alone | parameters |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {row['name']} | {row['ms']:.1f} | {row['ratio_to_teacher']:.2f} | {row['parameters'] / 1e6:.2f} M |"
        for row in sorted(rows, key=lambda row: row["ratio_to_teacher"])
    ]
    return "\n".join(lines)


def windows_table(rows: list[dict]) -> str:
    """One line per way to look at large pictures, cheapest first: what it finds, and what it costs."""
    heads = ["4,000 × 3,000", "defects of 20 px found", "with a tight box", "good ones called defective"]
    heads += ["s a picture: ensemble", "pixels", "fused", "build s", "build MB", "server MB"]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    by_name = defaultdict(dict)
    for row in rows:
        by_name[row["name"]][row["path"]] = row
    for name, paths in sorted(by_name.items(), key=lambda each: each[1]["ensemble"]["seconds"]):
        first = paths["ensemble"]
        figures = [
            f"{_all_alike(paths, 'found')} of {first['defects']}",
            _all_alike(paths, "boxed"),
            f"{_all_alike(paths, 'false_alarms')} of {first['good']}",
            *(f"{paths[path]['seconds']:.1f}" for path in ("ensemble", "pixels", "fused")),
            f"{first['build_seconds']:.0f}",
            f"{first['build_peak_mb']:,}",
            f"{max(row['server_mb'] for row in paths.values()):,}",
        ]
        lines.append("| " + " | ".join((name, *figures)) + " |")
    return "\n".join(lines)


def _all_alike(paths: dict[str, dict], figure: str) -> str:
    """A count that all paths share, or that of each."""
    counts = [row[figure] for row in paths.values()]
    return " / ".join(map(str, counts if len(set(counts)) > 1 else counts[:1]))


def boxes_table(rows: list[dict]) -> str:
    """One line per run of boxes, and below it the average precision of each class."""
    heads = ["data, fold, seed", "model", "mAP50", "mAP50:95", "boxes right", "labels found", "steps"]
    heads += ["M parameters", "GFLOPs", "ms"]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for row in rows:
        cells = [f"{row['data']}, {row['fold']}, {row['seed']}", row["model"]]
        cells += [f"{row['map50']:.3f}", f"{row['map50_95']:.3f}", f"{row['right']} of {row['shown']}"]
        cells += [f"{row['right']} of {row['labels']}", f"{row['steps']:,}"]
        cells += [f"{row['params_m']:.2f}", f"{row['gflops']:.2f}"]
        cells.append(f"{row['ms']:.1f}" if "ms" in row else "not deployed")
        lines.append("| " + " | ".join(cells) + " |")
    names = list(rows[0]["by_class"])
    lines += ["", "| AP50 by class | " + " | ".join(names) + " |", "| --- |" + " --- |" * len(names)]
    for row in rows:
        cells = [f"{row['by_class'][name]['ap50']:.3f}" for name in names]
        lines.append(
            f"| {row['model']}, fold {row['fold']}, seed {row['seed']} | " + " | ".join(cells) + " |"
        )
    return "\n".join(lines)


def faults_table(rows: list[dict]) -> str:
    """One line per fault: what became of the bad requests and of the good ones beside them."""
    lines = [
        "| fault | sent | answered | refused | lost | good ones lost | crashes | good answer after | growth |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        figures = ("sent", "answered", "refused", "lost", "neighbours_lost", "crashes")
        cells = [row["fault"], *(f"{row[figure]:,}" for figure in figures)]
        cells += [f"{row['recover_seconds']:.2f} s", f"{round(row['memory_growth_mb'])} MB"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


TABLES = {
    README: {"headline": headline_table},
    DOCUMENT: {
        "accuracy": accuracy_table,
        "scores": scores_table,
        "colour": colour_table,
        "promise": promise_table,
        "accuracy_builtin": accuracy_table,
        "parity": parity_table,
        "speed": speed_table,
        "faults": faults_table,
        "graph_cost": graph_cost_table,
        "windows": windows_table,
        "d3n": boxes_table,
        "auto": auto_table,
        "teachers": teachers_table,
        "fusion": partial(fusion_table, None),
        "fusion_cracks": partial(fusion_table, "cracks"),
        **{name: partial(ablation_table, name) for name in ABLATIONS},
    },
}
"""What each document shows, by the mark that stands around it."""


SOURCES = {"headline": "accuracy", "fusion_cracks": "fusion"}
"""File in results/ of tables that are not named after theirs."""


def render(text: str, tables: dict[str, Callable[[list[dict]], str]]) -> str:
    """A document with the text between each pair of table marks replaced."""
    for name, make in tables.items():
        source = "ablations" if name in ABLATIONS else SOURCES.get(name, name)
        rows = json.loads((RESULTS / f"{source}.json").read_text())
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
