"""Progress of long work, on standard error so that standard output stays machine-readable."""

import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import Progress, TaskID

T = TypeVar("T")

EVERY_S = 15.0
"""Seconds between two lines of one task where there is no terminal."""

console = Console(stderr=True)


class _Lines(Progress):
    """Progress for log files: a line now and then for what takes long, and none for what is soon done."""

    def __init__(self) -> None:
        super().__init__(console=console, auto_refresh=False, disable=True)
        self._told: dict[TaskID, float] = {}

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """See rich.progress.Progress."""
        super().advance(task_id, advance)
        self._tell(task_id)

    def update(self, task_id: TaskID, **changes: Any) -> None:  # noqa: ANN401 - as rich has them
        """See rich.progress.Progress."""
        super().update(task_id, **changes)
        self._tell(task_id)

    def _tell(self, task_id: TaskID) -> None:
        task = next(each for each in self.tasks if each.id == task_id)
        now = time.monotonic()
        if now - self._told.setdefault(task_id, now) < EVERY_S or task.finished:
            return
        self._told[task_id] = now
        left = ""
        if task.completed and task.elapsed and task.total:
            left = f", about {task.elapsed * (task.total / task.completed - 1):.0f} s left"
        say(f"{task.description}: {task.percentage:.0f} %{left}")


def bar() -> Progress:
    """A progress bar that leaves standard output alone; lines of text where there is no terminal."""
    return Progress(console=console, redirect_stdout=False) if console.is_terminal else _Lines()


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield `items` while a bar shows how far they are and how long the rest will take."""
    with bar() as progress:
        yield from progress.track(items, total=total, description=description)


def say(message: str) -> None:
    """Tell the user one thing, apart from results."""
    console.print(message, highlight=False, markup=False, emoji=False, soft_wrap=True)
