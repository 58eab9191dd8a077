"""What a pool process may take of the machine: a query that takes more fails its file alone."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

OPEN_FILES = 4096
FILE_BYTES = 64 << 30
CPU_S = 3600.0
"""Processor time for one input file."""
LEAST_MEMORY = 4 << 30


def limit_process() -> None:
    """Limit memory, open files and the size of a file for good, and allow no core dumps.

    Memory is what the process has written or may write, half of the machine's at most and 4 GiB at
    least; files that are mapped to be read do not count. A system that knows no such limits is left
    as it is.
    """
    with contextlib.suppress(ImportError):
        import resource

        _lower(resource.RLIMIT_CORE, 0)
        _lower(resource.RLIMIT_NOFILE, OPEN_FILES)
        _lower(resource.RLIMIT_FSIZE, FILE_BYTES)
        _lower(resource.RLIMIT_DATA, _writable_now() + most_memory())


def limit_file(cpu_s: float = CPU_S) -> None:
    """Let the process end when the file that it begins takes more than this processor time."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        soft = int(used.ru_utime + used.ru_stime + cpu_s) + 1
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def most_memory() -> int:
    """Return how many bytes a process may write to, besides those it begins with."""
    try:
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        machine = 0
    return max(machine // 2, LEAST_MEMORY)


def _lower(limit: int, value: int) -> None:
    import resource

    with contextlib.suppress(ValueError, OSError):
        limits = [one for one in resource.getrlimit(limit) if one != resource.RLIM_INFINITY]
        lower = min([value, *limits])
        resource.setrlimit(limit, (lower, lower))


def _writable_now() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[5])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
