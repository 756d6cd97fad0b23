"""The report: complete in itself, escaped, and right in what it says."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_up import sample, verdict

from flawline.errors import DataError
from flawline.report.evaluation import Evaluation
from flawline.report.page import check_report_file, write_report


def evaluation_of(
    folder: Path, good: int = 20, alarms: int = 1, seed: int = 0, budget: float = 0.05
) -> Evaluation:
    """Good pictures with some false alarms, two cracks found, one missed."""
    evaluation = Evaluation(budget=budget, seed=seed)
    for index in range(good):
        called = index < alarms
        evaluation.add(
            sample(folder, f"g{index}"),
            verdict(0.9 if called else 0.3 + index / 100, called, p_value=0.01 if called else 0.6),
        )
    for index, score in enumerate((2.0, 1.2, 0.345)):
        evaluation.add(
            sample(folder, f"c{index}", "crack"),
            verdict(score, score > 0.8, spot=score, p_value=0.01 if score > 0.8 else 0.5),
        )
    return evaluation


class Page(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def written(path: Path, *evaluations: Evaluation, title: str = "Line tiles", **facts: str) -> Page:
    write_report(path, title=title, evaluations=evaluations, facts=facts)
    return Page(path)


def test_headline_in_plain_words(tmp_path: Path):
    page = written(tmp_path / "report.html", evaluation_of(tmp_path), Teacher="built-in")
    check_report_file(tmp_path / "report.html")  # it is known as a report, and may be written anew
    assert "Of 3 defective pictures 2 were found, 1 missed." in page.text
    assert "Of 20 good pictures 1 was called defective." in page.text
    assert "66.7%" in page.text
    assert "5.0%" in page.text
    assert "Budget: 5% false alarms" in page.text
    assert "scores higher in 73.3 of 100 cases" in page.text  # 44 of 60 pairs
    assert "built-in" in page.text


def test_nothing_is_loaded_and_one_known_script_runs(tmp_path: Path):
    page = written(tmp_path / "report.html", evaluation_of(tmp_path))
    text = (tmp_path / "report.html").read_text()
    assert page.all("script") == [{"type": "application/json", "id": "operating-point"}, {}]
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    assert policy == (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    )
    assert not page.all("link")
    assert not page.all("a")
    sources = [image["src"] for image in page.all("img")]
    assert len(sources) > 10
    assert all(
        source.startswith(("data:image/jpeg;base64,", "data:image/svg+xml;base64,")) for source in sources
    )
    assert not re.search(r"""(href|src)\s*=\s*["'](?!data:)|url\(|@import|fetch\(|XMLHttp|import\(""", text)


def test_page_is_accessible(tmp_path: Path):
    page = written(tmp_path / "report.html", evaluation_of(tmp_path))
    assert page.all("html")[0]["lang"] == "en"
    assert all(image.get("alt") for image in page.all("img"))
    assert all(header.get("scope") in {"row", "col"} for header in page.all("th"))
    levels = [int(name[1]) for name, _ in page.tags if re.fullmatch(r"h[1-6]", name)]
    assert levels[0] == 1
    assert levels.count(1) == 1


def test_names_and_facts_are_escaped(tmp_path: Path):
    evaluation = Evaluation(budget=0.05)
    evaluation.add(sample(tmp_path, "a<b>&'x\"", "<script>crack"), verdict(2.0, True, spot=2.0))
    evaluation.add(sample(tmp_path, "fine"), verdict(0.2, False))
    write_report(
        tmp_path / "report.html",
        title="<i>tiles</i>",
        evaluations=[evaluation],
        facts={"<u>k": "<img src=x onerror=y>"},
    )
    page = Page(tmp_path / "report.html")
    names = {name for name, _ in page.tags}
    assert names.isdisjoint({"i", "u"})
    assert len(page.all("script")) == 2, "those of the page itself"
    assert not any("onerror" in image for image in page.all("img"))
    assert "<script>crack/ a<b>&'x\".png" in page.text


@pytest.mark.parametrize(
    ("good", "alarms", "word"),
    [
        (20, 1, "Holds"),
        (20, 2, "Too few to tell"),
        (19, 0, "Too few to tell"),
        (40, 12, "Does not hold"),
        (0, 0, "Not checked"),
    ],
)
def test_the_promise_is_judged_by_what_chance_allows(tmp_path: Path, good: int, alarms: int, word: str):
    page = written(tmp_path / "report.html", evaluation_of(tmp_path, good, alarms))
    said = {
        each for each in ("Holds", "Too few to tell", "Does not hold", "Not checked") if each in page.text
    }
    assert said == {word}
    if good:
        assert (
            f"{alarms} of {good} good pictures alarmed; {good * 0.05:.1f} expected at a budget of 5%"
            in page.text
        )
        assert "At this budget 2 of 3 defects were found (9.4% to 99.2% with 95% confidence)." in page.text


def test_galleries_show_picture_heat_map_mask_and_label(tmp_path: Path):
    page = written(tmp_path / "report.html", evaluation_of(tmp_path))
    alternatives = [image["alt"] for image in page.all("img")]
    for wanted in (
        "Picture crack/c0.png, crack",
        "Heat map of crack/c0.png, up to 2.10 times the threshold",
        "Pixels of crack/c0.png called defective",
        "Pixels of crack/c0.png labelled defective by people",
        "Picture crack/c2.png, crack",  # the miss
        "Picture good/g0.png, good",  # the false alarm
    ):
        assert wanted in alternatives
    assert "Pixels of crack/c2.png called defective" not in alternatives  # its map stays below the threshold


def test_the_operating_point_is_told_in_counts_and_works_without_the_script(tmp_path: Path):
    page = written(tmp_path / "report.html", evaluation_of(tmp_path))
    tools = [attributes for _, attributes in page.tags if "scripted" in (attributes.get("class") or "")]
    assert tools
    assert all("hidden" in attributes for attributes in tools), "the script shows them"
    assert "5% – this line, reject" in page.text
    assert "2 of 3 (66.7%)" in page.text
    assert "1 of 20 (5.0%)" in page.text
    assert (
        "the threshold must go down to the weakest, crack/c2.png, and 16 of 20 good pictures alarm"
        in page.text
    )
    assert "1000 false alarms" in page.text
    assert page.text.index("Operating point") < page.text.index("Image AUROC")
    (data,) = re.findall(
        r'<script type="application/json" id="operating-point">(.*?)</script>',
        (tmp_path / "report.html").read_text(),
    )
    steps = json.loads(data)["steps"]
    assert {(step["alarmed"], step["found"]) for step in steps if step["budget"] < 0.5} == {(1, 2)}


def test_one_kind_of_picture_has_no_operating_point(tmp_path: Path):
    evaluation = Evaluation(budget=0.05)
    evaluation.add(sample(tmp_path, "only"), verdict(0.4, False))
    page = written(tmp_path / "report.html", evaluation)
    assert "It takes good and defective test pictures" in page.text
    assert not page.all("script")


def test_good_pictures_of_another_day_are_shown_with_their_answer(tmp_path: Path):
    holdout = Evaluation(budget=0.05)
    for index in range(40):
        holdout.add(sample(tmp_path / "later", f"h{index}"), verdict(1.0 + index / 100, index < 30))
    write_report(
        tmp_path / "report.html",
        title="t",
        evaluations=[evaluation_of(tmp_path)],
        facts={},
        holdouts=[holdout],
    )
    page = Page(tmp_path / "report.html")
    assert (
        "The promise: does not hold. 30 of 40 good pictures alarmed; 2.0 expected at a budget of 5%"
        in page.text
    )
    assert "Good pictures of another day that alarmed" in page.text
    assert "Picture good/h29.png, good" in [image["alt"] for image in page.all("img")]
    assert "another day" not in written(tmp_path / "report.html", evaluation_of(tmp_path)).text


def test_pictures_that_a_line_learned_from_test_no_promise(tmp_path: Path):
    path = tmp_path / "report.html"
    write_report(path, title="t", evaluations=[evaluation_of(tmp_path)], facts={}, unseen=False)
    page = Page(path)
    assert "Not checked" in page.text
    assert "Holds" not in page.text
    assert "Inspection of 23 training pictures, as there are no test pictures" in page.text


def test_three_answers_are_told_apart(tmp_path: Path):
    evaluation = Evaluation(budget=0.05, look_again=0.2)
    evaluation.add(sample(tmp_path, "g0"), verdict(0.1, False))
    evaluation.add(sample(tmp_path, "c0", "crack"), verdict(0.4, False, spot=0.9, again=True))
    evaluation.add(sample(tmp_path, "c1", "crack"), verdict(0.9, True, spot=2.0))
    page = written(tmp_path / "report.html", evaluation)
    badges = [a["class"] for name, a in page.tags if name == "span" and "badge" in (a.get("class") or "")]
    assert sorted(badges) == ["badge again", "badge defect", "badge good"]
    assert page.words.count("missed, but to be looked at again") == 1
    assert "1 more to be looked at again." in page.text
    assert "here 20%" in page.text


def test_every_wrong_decision_is_listed(tmp_path: Path):
    page = written(tmp_path / "report.html", evaluation_of(tmp_path, alarms=9))
    assert "10 of 23 pictures" in page.text
    assert page.words.count("false alarm") == 9  # more than a gallery holds
    assert page.words.count("missed") == 1


def test_several_runs_show_the_middle_one_and_the_spread(tmp_path: Path):
    runs = [evaluation_of(tmp_path, alarms=alarms, seed=seed) for seed, alarms in ((3, 0), (4, 6), (5, 3))]
    page = written(tmp_path / "report.html", *runs)
    assert "shown is seed 5, the middle one by image AUROC" in page.text
    assert "Of 20 good pictures 3 were called defective." in page.text
    assert "All 3 runs: 15.0% ± 15.0%" in page.text
    assert [word for word in page.words if word.startswith("seed ")] == ["seed 3", "seed 4", "seed 5"]


def test_a_single_run_has_no_table_of_runs(tmp_path: Path):
    assert "All runs" not in written(tmp_path / "report.html", evaluation_of(tmp_path)).text


@pytest.mark.parametrize("defect_class", ["good", "crack"])
def test_one_kind_of_picture_still_gives_a_report(tmp_path: Path, defect_class: str):
    evaluation = Evaluation(budget=0.05)
    evaluation.add(sample(tmp_path, "only", defect_class, mask=None), verdict(0.4, False))
    page = written(tmp_path / "report.html", evaluation)
    assert "not measured" in page.text
    assert "The test holds no" in page.text


def test_same_evaluation_gives_the_same_file(tmp_path: Path):
    for name in ("one.html", "two.html"):
        written(tmp_path / name, evaluation_of(tmp_path))
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


@pytest.mark.parametrize("evaluations", [[], [Evaluation(budget=0.05)]])
def test_nothing_to_report_is_said_and_nothing_written(tmp_path: Path, evaluations: list[Evaluation]):
    with pytest.raises(DataError, match="no pictures"):
        write_report(tmp_path / "report.html", title="t", evaluations=evaluations, facts={})
    assert list(tmp_path.iterdir()) == []


def test_the_training_of_a_student_is_drawn_when_there_was_one(tmp_path: Path):
    for losses in ((), (3.0, 2.0, 1.25)):
        path = tmp_path / f"{len(losses)}.html"
        write_report(path, title="t", evaluations=[evaluation_of(tmp_path)], facts={}, losses=losses)
        drawn = [image for image in Page(path).all("img") if "went from 3 to 1.25" in (image["alt"] or "")]
        assert len(drawn) == bool(losses)
