"""Limits of a transformer process: a query that exceeds one fails its own file only."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

OPEN_FILES = 4096
FILE_BYTES = 64 << 30
CPU_S = 3600.0
"""Processor time for one input file, in seconds."""
MIN_MEMORY = 4 << 30


def limit_process() -> None:
    """Limit memory, open files and file sizes of this process for good, and forbid core dumps.

    Memory is what the process has written to or may write to: at most half of the machine's, but
    4 GiB at least. Files that are mapped for reading do not count. On systems without such limits
    nothing happens.
    """
    with contextlib.suppress(ImportError):
        import resource

        _lower(resource.RLIMIT_CORE, 0)
        _lower(resource.RLIMIT_NOFILE, OPEN_FILES)
        _lower(resource.RLIMIT_FSIZE, FILE_BYTES)
        _lower(resource.RLIMIT_DATA, _writable_now() + max_memory())


def limit_file(cpu_s: float = CPU_S) -> None:
    """Limit the processor time of the next input file; the system ends a process that exceeds it.

    Parameters
    ----------
    cpu_s : float
        Seconds from now on.
    """
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        soft = int(used.ru_utime + used.ru_stime + cpu_s) + 1
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def max_memory() -> int:
    """Return the bytes that a process may write to, besides those it begins with."""
    try:
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        machine = 0
    return max(machine // 2, MIN_MEMORY)


def _lower(limit: int, value: int) -> None:
    import resource

    with contextlib.suppress(ValueError, OSError):
        finite = [bound for bound in resource.getrlimit(limit) if bound != resource.RLIM_INFINITY]
        lower = min([value, *finite])
        resource.setrlimit(limit, (lower, lower))


def _writable_now() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[5])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
