"""Progress where there is no terminal: lines that a log can hold."""

import pytest

from flawline import progress


def test_long_work_tells_its_share_and_what_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = iter(range(0, 10_000, 4))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    assert list(progress.track(range(40), "embedding normals")) == list(range(40))
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert 5 <= len(lines) <= 12
    assert all(line.startswith("embedding normals: ") and "%" in line for line in lines)
    assert "s left" in lines[-1]
    assert captured.out == ""


def test_a_training_that_reports_shares_tells_them_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "EVERY_S", 0.0)
    with progress.bar() as shown:
        task = shown.add_task("training sacd", total=1.0)
        for done in (0.25, 0.5, 1.0):
            shown.update(task, completed=done)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(",")[0] for line in lines] == ["training sacd: 25 %", "training sacd: 50 %"]


def test_short_work_leaves_nothing_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress.track([1, 2, 3], "reading")) == [1, 2, 3]
    assert capsys.readouterr().err == ""


def test_a_name_is_told_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    progress.say("folder:zero: [bold]x[/bold] :warning:")
    assert capsys.readouterr().err == "folder:zero: [bold]x[/bold] :warning:\n"
