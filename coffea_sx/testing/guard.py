"""A script that runs a program for as long as somebody holds its standard input open.

A process that is killed stops nothing; this stops what it had started.
"""

from __future__ import annotations

import subprocess
import sys
import threading


def main(patience_s: str, *command: str) -> int:
    """Run a command until it ends, or until standard input does; return its exit status."""
    program = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603

    def stop() -> None:
        # One byte is enough: processes that were forked meanwhile may hold the other end open.
        sys.stdin.read(1)
        program.terminate()
        try:
            program.wait(float(patience_s))
        except subprocess.TimeoutExpired:
            program.kill()

    threading.Thread(target=stop, daemon=True).start()
    return program.wait()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
