"""A line whose detector was chosen: built, served and derived from like any other."""

from pathlib import Path

import pytest
from asking import assert_same, image, server_of
from small_build import LEARNT, SIZE, draw
from tritonclient.grpc import InferenceServerClient

from flawline.data import Dataset
from flawline.detectors.fitted import CHOICE, FittedLine
from flawline.jobs import judging
from flawline.jobs.build import build
from flawline.jobs.derive import calibrate_line
from flawline.jobs.release import ReleasedLine, write_build_report
from flawline.recipe import Recipe

pytestmark = [pytest.mark.server, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return draw("woven", tmp_path_factory.mktemp("data"), normals=24, tested=4)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("auto") / "repository"


@pytest.fixture(scope="module")
def built(data: Dataset, repository: Path) -> ReleasedLine:
    few = {"even_exposure": False, "synthetic_count": 8}  # one exposure; trials have synthetic positive banks
    recipe = Recipe.model_validate({**LEARNT, "size": SIZE, **few})
    with pytest.MonkeyPatch.context() as patch:
        # Which one is chosen does not matter here.
        patch.setattr(judging, "MOST_DEFECTS", judging.FEWEST_DEFECTS)
        return build("auto", data, "chosen", repository=repository, recipe=recipe)


def test_the_manifest_says_what_was_chosen_and_why(built: ReleasedLine) -> None:
    manifest = built.manifest
    assert manifest.search is not None
    tried = manifest.search.candidates
    assert [each.detector for each in tried] == ["exdd", "sacd+exdd", "ddpm_ast+exdd", "segmenter+exdd"]
    assert all(each.trials >= 1 and each.verdict for each in tried)
    chosen = tried[manifest.search.chosen]
    assert chosen.verdict.startswith("chosen: ")
    assert manifest.detector == chosen.detector == "+".join(part.name for part in manifest.parts)
    assert (manifest.recipe["size"], manifest.recipe["even_exposure"]) == (SIZE, False)
    assert [fact.decisions_flipped for fact in manifest.parity] == [0] * 5


def test_the_server_answers_as_the_chosen_line(built: ReleasedLine, data: Dataset, repository: Path) -> None:
    fitted, _ = FittedLine.load(built.folder)
    sample = data.test[-1]
    (verdict,) = fitted.inspect([sample.read_image()])
    with server_of(repository) as server, InferenceServerClient(server.grpc_url) as client:
        assert_same(client.infer("chosen", [image(sample.image.read_bytes())]), 0, verdict)


def test_the_report_and_later_versions_keep_the_reason(
    built: ReleasedLine, repository: Path, tmp_path: Path
) -> None:
    derived = calibrate_line(repository, "chosen", false_alarm=0.3)
    assert derived.manifest.version == built.manifest.version + 1
    assert derived.manifest.search == built.manifest.search
    for each in (built, derived):
        write_build_report(tmp_path / "report.html", each)
        page = (tmp_path / "report.html").read_text()
        assert CHOICE in page
        assert "of those within one standard error of the best" in page
