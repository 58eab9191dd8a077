"""A script that runs a program for as long as the owner process holds its standard input open.

A process that is killed cannot stop the programs that it started; this script does. The first line
of its standard output is the process id of the program, whose own output goes to standard error.
"""

from __future__ import annotations

import subprocess
import sys
import threading


def main(stop_timeout_s: str, *command: str) -> int:
    """Run a command until it ends or standard input does; return its exit status."""
    program = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr)  # noqa: S603
    sys.stdout.write(f"{program.pid}\n")
    sys.stdout.flush()

    def stop() -> None:
        # One byte is enough: processes that were forked meanwhile may hold the other end open.
        sys.stdin.read(1)
        program.terminate()
        try:
            program.wait(float(stop_timeout_s))
        except subprocess.TimeoutExpired:
            program.kill()

    threading.Thread(target=stop, daemon=True).start()
    return program.wait()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
