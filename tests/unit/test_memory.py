"""Memory that a batch gave back serves the next one."""

import subprocess
import sys

import pytest

ASK_AGAIN = """
import resource
import numpy as np
from flawline.memory import keep_freed_memory

if {keep}:
    if not keep_freed_memory():
        raise SystemExit("no glibc")
for _ in range(3):
    np.ones(64 << 20, np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    np.ones(64 << 20, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(*, keep: bool) -> int:
    """Count the page faults of five arrays of 64 MiB, made one after the other."""
    ran = subprocess.run(
        [sys.executable, "-c", ASK_AGAIN.format(keep=keep)], capture_output=True, text=True, timeout=60
    )
    if "no glibc" in ran.stderr:
        pytest.skip("the C library is not glibc")
    return int(ran.stdout)


def test_a_batch_of_the_same_size_meets_no_page_faults() -> None:
    assert page_faults(keep=True) * 10 < page_faults(keep=False)
