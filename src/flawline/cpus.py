"""How many CPUs this process may really use."""

import math
import os
from pathlib import Path

CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")
"""Quota and period of the control group of this process, as a container sees its own (version 2)."""


def usable_cpus() -> int:
    """CPUs that the scheduler gives this process: those it is bound to, and no more than its container's limit.

    A container with a limit of two CPUs sees all cores of its machine; with a thread for each it would spend its
    share within milliseconds and then stand still.
    """
    bound = len(os.sched_getaffinity(0))
    try:
        quota, period = CGROUP_LIMIT.read_text().split()
        return min(bound, max(1, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no control groups of version 2, or no limit, which is the word "max"
        return bound
