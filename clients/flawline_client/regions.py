"""System shared memory through which a local server reads pixels, instead of receiving a copy."""

import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.utils import shared_memory

SHM_FOLDER = Path("/dev/shm")  # noqa: S108  where Linux keeps POSIX shared memory


@dataclass(eq=False)
class Region:
    """One block of shared memory; `registered` tells whether the server is believed to know it."""

    name: str
    capacity: int
    handle: Any
    registered: bool = False

    @property
    def key(self) -> str:
        """The name under which the server opens it."""
        return f"/{self.name}"


class RegionPool:
    """Regions of one client, reused from picture to picture. Safe to use from several threads.

    Capacities are powers of two, so the regions that pictures outgrow never weigh more than those in use.
    """

    def __init__(self, allowed: bool) -> None:
        self._allowed = allowed and SHM_FOLDER.is_dir()
        self._prefix = f"flawline_client_{os.getpid()}_{secrets.token_hex(4)}"
        self._all: list[Region] = []
        self._free: list[Region] = []
        self._lock = threading.Lock()

    @contextmanager
    def holding(self, pixels: NDArray[np.uint8 | np.uint16]) -> Iterator[Region | None]:
        """Lend a region that holds a copy of `pixels`; None where shared memory is off or full."""
        region = self._borrow(pixels.nbytes)
        if region is None:
            yield None
            return
        try:
            shared_memory.set_shared_memory_region(region.handle, [pixels])
            yield region
        finally:
            with self._lock:
                self._free.append(region)

    def refuse(self) -> None:
        """Lend no more: the server cannot read this machine's memory."""
        self._allowed = False

    def release(self) -> list[str]:
        """Unlink every region and return their names, for the server to forget."""
        with self._lock:
            self._allowed = False
            regions, self._all, self._free = self._all, [], []
        for region in regions:
            shared_memory.destroy_shared_memory_region(region.handle)
        return [region.name for region in regions]

    def _borrow(self, byte_size: int) -> Region | None:
        with self._lock:
            if not self._allowed:
                return None
            fitting = [region for region in self._free if region.capacity >= byte_size]
            if fitting:
                region = min(fitting, key=lambda candidate: candidate.capacity)
                self._free.remove(region)
                return region
            return self._create(1 << (byte_size - 1).bit_length())

    def _create(self, capacity: int) -> Region | None:
        name = f"{self._prefix}_{len(self._all)}"
        try:
            handle = shared_memory.create_shared_memory_region(name, f"/{name}", capacity, create_only=True)
        except shared_memory.SharedMemoryException:
            self._allowed = False
            return None
        region = Region(name, capacity, handle)
        try:
            _reserve(SHM_FOLDER / name, capacity)
        except OSError:  # the folder is full
            shared_memory.destroy_shared_memory_region(handle)
            return None
        self._all.append(region)
        return region


def _reserve(path: Path, byte_size: int) -> None:
    """Claim the memory now: writing to a region that a full /dev/shm cannot back kills the process."""
    file = os.open(path, os.O_RDWR)
    try:
        os.posix_fallocate(file, 0, byte_size)
    finally:
        os.close(file)
