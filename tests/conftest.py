"""Three workers share the suite file by file; the files that stand on the same published lines stay together."""

import os
from pathlib import PurePosixPath

import pytest
from xdist.scheduler.loadscope import LoadScopeScheduling

# Flawline first: tests that import ONNX Runtime themselves send no usage reports either.
from flawline.memory import keep_freed_memory

# Before anything starts its threads, and for every process that a test starts: pools that spin while they wait
# would take the cores from each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
keep_freed_memory()  # as every command does

TOGETHER = {"test_serving.py", "test_student_lines.py", "test_derived_versions.py"}
"""Files that use the fixtures `published` and `learnt`, which take a minute to make in each worker."""


class FileByFile(LoadScopeScheduling):
    """Gives each worker whole files."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "together" if PurePosixPath(file).name in TOGETHER else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> FileByFile:
    """Take the place of the scheduler that --dist names."""
    return FileByFile(config, log)
