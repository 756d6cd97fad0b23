"""Two workers share the suite: tests that stand on the same lines stay together, all others file by file."""

import pytest

LINES = ("published", "learnt")
"""Fixtures that take a minute to make: all tests that use them run in one worker."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put each test into a group for pytest-xdist, the slowest group first."""
    for item in items:
        together = any(name in getattr(item, "fixturenames", ()) for name in LINES)
        item.add_marker(pytest.mark.xdist_group("lines" if together else str(item.path)))
    items.sort(key=lambda item: item.get_closest_marker("server") is None)
