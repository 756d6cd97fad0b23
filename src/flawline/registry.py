"""Things found by name: those that come with Flawline, and those that other packages add by entry points."""

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar, cast

from flawline.errors import RecipeError

T = TypeVar("T")


@cache
def _installed(group: str) -> Mapping[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=group)}


def forget() -> None:
    """Look for installed packages anew; needed only where some were installed since the first look."""
    _installed.cache_clear()


class Registry(Generic[T]):
    """Objects of one kind by name, imported when they are first asked for.

    Args:
        group: entry-point group in which other packages register theirs, such as `flawline.parts`.
        kind: what one of them is called in messages, such as `detector`.
        builtin: name to `module:attribute` of those that come with Flawline; no entry point can replace one.

    """

    def __init__(self, group: str, kind: str, builtin: Mapping[str, str]) -> None:
        self.group, self.kind, self.builtin = group, kind, builtin

    def names(self) -> tuple[str, ...]:
        """Return all names: the built-in ones in their order, then the others sorted."""
        return (*self.builtin, *sorted(set(_installed(self.group)) - set(self.builtin)))

    def get(self, name: str) -> T:
        """Return the object of a name.

        Raises:
            RecipeError: there is none of that name, or the package that registers it cannot be imported.

        """
        try:
            if name in self.builtin:
                module, _, attribute = self.builtin[name].partition(":")
                return cast(T, getattr(import_module(module), attribute))
            if name in _installed(self.group):
                return cast(T, _installed(self.group)[name].load())
        except (ImportError, AttributeError) as error:
            msg = f"{self.kind} '{name}' cannot be imported ({error}); install what it needs"
            raise RecipeError(msg) from error
        msg = (
            f"unknown {self.kind} '{name}'; there are: {', '.join(self.names())} "
            f"(if it comes from another package, install that package)"
        )
        raise RecipeError(msg)
