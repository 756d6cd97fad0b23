"""The ablation benchmark: what it varies, which rows it measures, its tables; and the settings made for it."""

import json
import re
import sys
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
import torch
from small_lines import SIZE, draw_line, small_recipe, write_teacher

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "accuracy"))
import ablations
from ablation_tables import ABLATIONS, DEFAULTS, SCORE, Ablation, all_settings
from positive_only import by_positive_bank
from tables import TABLES, ablation_table

from flawline.data import Dataset
from flawline.detectors.fitted import FittedLine
from flawline.detectors.part import PARTS
from flawline.errors import DataError
from flawline.jobs.fit import fit
from flawline.recipe import SHORT, Recipe
from flawline.scoring.picture import Geometry
from flawline.synthesis import read_synthesis
from flawline.synthesis.method import MethodConfig

LINE = "surfaces:woven,size=128x128,normals=12,test_normals=2,test_defects=2,train_defects=0"
QUICK = {"data_root": Path("data"), "data": LINE, "seeds": "0", "steps": 2, "again": False}


def spelt_out(place: str) -> list[tuple[str, ...]]:
    """Where a recipe keeps a setting: what may stand at the top for short is read into sections."""
    return list(SHORT.get(place, [tuple(place.split("."))]))


def value_at(detector: str, recipe: Recipe, place: str) -> object:
    """What holds at a place of DEFAULTS; of a method that the detector does not draw by, its own default."""
    section, _, field = place.partition(".")
    drawn = recipe.part(detector).synthesis or recipe.synthesis  # type: ignore[attr-defined]
    if section in ablations.METHOD_SETTINGS:
        parts = [part for part in getattr(drawn, "parts", [drawn]) if part.method == section]
        return getattr(parts[0] if parts else read_synthesis(section), field)
    first, *others = spelt_out(place)[0]
    value = reduce(getattr, others, recipe.part(first) if first in PARTS.names() else getattr(recipe, first))
    value = recipe.synthesis if value is None and others == ["synthesis"] else value
    return name_of(value) if isinstance(value, MethodConfig) else value


def name_of(synthesis: MethodConfig) -> str:
    """As ablation tables name it."""
    methods = [part.method for part in getattr(synthesis, "parts", ())]
    return "+".join(methods) if methods and "strokes" not in methods else synthesis.method


def test_defaults_are_those_of_the_recipe() -> None:
    """But for labelled defects and one scale, which no table uses. What a change here touches is measured anew."""
    for detector, settings in DEFAULTS.items():
        for place, default in settings.items():
            if place not in (SCORE, "positive", "even_scale"):
                found = value_at(detector, ablations.make_recipe(detector, {}, 2), place)
                assert found == (tuple(default) if isinstance(default, list) else default), place


@pytest.mark.parametrize("table", ABLATIONS)
def test_every_variant_reaches_the_recipe_and_nothing_else_changes(table: str) -> None:
    ablation = ABLATIONS[table]
    detector = ablation.detector
    default = all_settings(detector, {})
    plain = ablations.make_recipe(detector, default, 7).model_dump(mode="json")
    seen = []
    for variant in ablation.variants.values():
        settings = all_settings(detector, variant)
        seen.append(settings)
        recipe = ablations.make_recipe(detector, settings, 7)
        for place, value in variant.items():
            if place != SCORE:
                wanted = tuple(value) if isinstance(value, list) else value
                assert value_at(detector, recipe, place) == wanted
        changed = {place for place, value in settings.items() if value != default[place]} - {SCORE}
        drawing = "synthesis" if detector == "exdd" else detector
        places = {
            drawing if where[0] in ablations.METHOD_SETTINGS else where[0]
            for place in changed
            for where in spelt_out(place)
        }
        dumped = recipe.model_dump(mode="json")
        assert {name for name in dumped if dumped[name] != plain.get(name)} == places
    assert seen.count(default) == (table != "sacd_lambda"), "the default is one of the lines"
    assert all(seen.count(settings) == 1 for settings in seen)
    with pytest.raises(ValueError, match="sigma is not among DEFAULTS"):
        all_settings(detector, {"sigma": 1})
    if detector != "exdd":
        diffusion = ablations.make_recipe(detector, {f"{detector}.synthesis": "ddpm"}, 7).part(detector)
        assert (diffusion.training.steps, diffusion.synthesis.steps) == (7, 14)


@pytest.fixture
def results(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A file of its own, a small teacher and pictures, and two tables that share the default."""
    teacher = write_teacher(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(ablations, "RESULTS", tmp_path / "ablations.json")
    full = ablations.make_recipe

    def small(detector: str, settings: dict[str, object], steps: int, _teacher: str) -> Recipe:
        training = {f"{detector}.training": {"steps": steps, "crop": 64, "pairs": 2}}
        extra = {"teacher": teacher, "size": SIZE, "false_alarm": 0.2, **training}
        return full(detector, {**settings, **extra}, steps)

    monkeypatch.setattr(ablations, "make_recipe", small)
    tables = {
        "first": Ablation("sacd", {"0.2": {"sacd.alpha": 0.2}, "1": {"sacd.alpha": 1}}),
        "second": Ablation("sacd", {"2": {"sacd.depth": 2}, "0": {"sacd.depth": 0}}),
    }
    monkeypatch.setattr(ablations, "ABLATIONS", tables)
    return tmp_path / "ablations.json"


def test_a_table_is_measured_once_and_shares_rows_with_others(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written = []
    real = ablations.merge_rows
    monkeypatch.setattr(ablations, "merge_rows", lambda *args: (written.append(args[1]), real(*args)))
    ablations.main("first", **QUICK)
    rows = json.loads(results.read_text())
    assert len(written) == 2, "each row is written as soon as it is measured"
    assert [row["settings"] for row in rows] == [
        all_settings("sacd", {}),
        all_settings("sacd", {"sacd.alpha": 1}),
    ]
    for row in rows:
        assert (row["detector"], row["seed"], row["steps"], row["ddpm_steps"]) == ("sacd", 0, 2, None)
        assert row["teacher"].rpartition("@")[2]
        assert row["labels_used"] == "none"
        assert row["device"] == (torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu")
        assert row["fit_seconds"] > 0
        assert all(0 <= row[figure] <= 1 for figure in ablations.FIGURES)
        assert row["command"].startswith(
            "python benchmarks/accuracy/ablations.py first --data surfaces:woven,"
        )
        assert row["command"].endswith(" --seeds 0 --steps 2")

    monkeypatch.setattr(ablations, "fit", None)
    ablations.main("first", **QUICK)
    assert len(written) == 2
    with pytest.raises(TypeError):
        ablations.main("first", **{**QUICK, "again": True})
    with pytest.raises(TypeError):
        ablations.main("first", **{**QUICK, "steps": 3})

    monkeypatch.setattr(ablations, "fit", fit)
    capsys.readouterr()
    ablations.main("second", **QUICK)
    assert [line for line in capsys.readouterr().out.splitlines() if "seed 0" in line] == [
        f"second: 0, {rows[0]['data']}, seed 0"
    ]
    assert [row for row in json.loads(results.read_text()) if row in rows] == rows
    assert len(written) == 3


def test_what_cannot_be_measured_is_one_sentence(results: Path) -> None:
    with pytest.raises(SystemExit, match=r"^there is no table 'sacd_beta'; choose one of first, second$"):
        ablations.main("sacd_beta", **QUICK)
    with pytest.raises(SystemExit, match="is not a folder"):
        ablations.main("first", **{**QUICK, "data": "folder:nowhere"})
    untested = LINE.replace("test_normals=2,test_defects=2", "test_normals=0,test_defects=0")
    with pytest.raises(SystemExit, match="has no test pictures"):
        ablations.main("first", **{**QUICK, "data": untested})
    assert not results.exists()


def test_the_table_shows_means_over_seeds_and_dashes() -> None:
    row = {
        "detector": "exdd",
        "data": "kolektorsdd:kolektorsdd",
        "teacher": "builtin@1",
        "seed": 0,
        "steps": None,
        "ddpm_steps": None,
        "settings": all_settings("exdd", {}),
        "image_auroc": 0.5,
        "pixel_auroc": None,
        "aupro": 0.25,
    }
    rows = [
        row,
        row | {"seed": 1, "image_auroc": 0.7},
        row | {"settings": all_settings("exdd", {"synthesis": "ddpm"}), "ddpm_steps": 300},
        row | {"settings": all_settings("exdd", {"synthesis": "ddpm"}), "ddpm_steps": 20},
        row | {"settings": all_settings("exdd", {"synthetic_count": 25}), "data": "surfaces:woven"},
        row | {"settings": row["settings"] | {"synthesis": "fog"}, "image_auroc": 0.99},
        row | {"detector": "sacd", "image_auroc": 0.99},
    ]
    lines = ablation_table("exdd_synthesis", rows).splitlines()
    assert lines[0].startswith("| variant | steps of training | seeds | magnetic_tile, image AUROC |")
    assert lines[0].endswith("| kolektorsdd, pixel AUROC | kolektorsdd, AUPRO |"), (
        "another table's data stay out"
    )
    assert lines[2] == "| mixed (default) | – | 2 | – | – | – | 0.600 ± 0.141 | – | 0.250 ± 0.000 |"
    assert lines[3] == "| cutpaste | – | – | – | – | – | – | – | – |"
    assert [line.split(" | ")[1] for line in lines[-3:-1]] == ["diffusion 20", "diffusion 300"]
    assert len(lines) == 2 + 8 + 2
    assert "surfaces:woven, AUPRO" in ablation_table("exdd_count", rows)
    both = ablation_table("exdd_synthesis", [row, row | {"teacher": "builtin@2"}]).splitlines()
    assert [line.split(" | ")[0] for line in both[2:4]] == [
        "| mixed (default), teacher builtin@1",
        "| mixed (default), teacher builtin@2",
    ]


def test_the_document_has_every_table() -> None:
    (document,) = [path for path in TABLES if path.name == "results.md"]
    assert {"fusion", "fusion_cracks", *ABLATIONS} <= set(TABLES[document])
    for path, tables in TABLES.items():
        assert set(re.findall(r"<!-- table (\w+) -->", path.read_text())) == set(tables)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("line")
    return draw_line(folder, normals=12, test_normals=2, test_defects=2, train_defects=2)


@pytest.fixture(scope="module")
def fitted(drawn: Dataset, tmp_path_factory: pytest.TempPathFactory) -> FittedLine:
    recipe = small_recipe(write_teacher(tmp_path_factory.mktemp("teacher")), positive="synthetic")
    return fit("exdd", drawn, recipe, seed=0)


def test_the_positive_bank_alone_scores_by_nearness_to_it(drawn: Dataset, fitted: FittedLine) -> None:
    (part,) = by_positive_bank(fitted, drawn).model.parts
    known = part.positive.vectors[:1]
    patches = (known + torch.linspace(1, 4, 16)[:, None] * torch.ones(1, known.shape[1])).repeat(16, 1)
    patches[17] = known[0]
    found = part.find({"EMBEDDING": patches.reshape(16, 16, -1)}, Geometry.fit(SIZE, SIZE, SIZE))
    assert found.map.max() == pytest.approx(1e6)
    assert np.unravel_index(found.map.argmax(), found.map.shape) == (1, 1)
    distance = part.positive(patches)[0].numpy()
    assert found.map.ravel()[2] == pytest.approx(1 / (distance[2] + 1e-6))


def test_the_positive_bank_alone_is_calibrated_anew(drawn: Dataset, fitted: FittedLine) -> None:
    alone = by_positive_bank(fitted, drawn)
    normals = alone.inspect([sample.read_image() for sample in drawn.train_normals])
    np.testing.assert_allclose(alone.calibration.scores, sorted(each.score for each in normals), rtol=1e-5)
    assert sum(each.anomaly_map.max() >= 1 for each in normals) <= 1
    assert not np.allclose(alone.calibration.scores, fitted.calibration.scores)
    negative = fit("exdd", drawn, small_recipe(fitted.recipe["teacher"], positive="none"), seed=0)
    with pytest.raises(DataError, match="no positive bank"):
        by_positive_bank(negative, drawn)
