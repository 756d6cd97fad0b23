"""Progress of long work, on standard error so that standard output stays machine-readable."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

T = TypeVar("T")

console = Console(stderr=True)


def bar() -> Progress:
    """A progress bar that leaves standard output alone, and no trace in a log file."""
    return Progress(console=console, transient=not console.is_terminal, redirect_stdout=False)


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield `items` while a bar shows how far they are and how long the rest will take."""
    with bar() as progress:
        yield from progress.track(items, total=total, description=description)


def say(message: str) -> None:
    """Tell the user one thing, apart from results."""
    console.print(message, highlight=False, markup=False, soft_wrap=True)
