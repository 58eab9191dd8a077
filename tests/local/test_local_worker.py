"""Worker processes: a dead one fails one file, and is replaced."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time


def pool_processes() -> set[int]:
    return {child.pid for child in multiprocessing.active_children() if child.pid}


def test_a_dead_process_fails_one_file(serve, inputs):
    client = serve(workers=1)
    before = pool_processes()
    fifo = client.server.directory / "fifo.root"
    os.mkfifo(fifo)  # blocks when it is opened
    request_id = client.submit([inputs[0], fifo, inputs[1]])
    client.wait(request_id, n_rows=1)
    time.sleep(0.3)
    (pid,) = pool_processes() - before
    os.kill(pid, signal.SIGKILL)
    status = client.wait(request_id)
    assert (status["files-completed"], status["files-failed"]) == (2, 1)
    assert client.reasons(request_id) == {str(fifo): "the transformer process died"}
    (pid,) = pool_processes() - before
    os.kill(pid, signal.SIGKILL)  # while it is idle
    assert client.wait(client.submit([inputs[0]]))["files-completed"] == 1
