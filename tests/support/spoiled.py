"""Files and results that cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import uproot

from coffea_sx.local import LocalServiceX

N_EVENTS = 500  # of each input file


def spoil(path: str | Path) -> None:
    Path(path).write_bytes(b"root" + bytes(2000))


def spoil_result(server: LocalServiceX, factory: Any, index: int) -> Callable[[], object]:
    """Spoil the delivered file of an input file of the demo; return what mends it."""
    for path in (server.directory / "objects" / factory.request_id).iterdir():
        with uproot.open({path: "servicex"}) as tree:
            first = tree["event"].array(entry_stop=1)[0]
        if first // N_EVENTS == index:
            good = path.read_bytes()
            path.write_bytes(bytes(len(good)))
            return partial(path.write_bytes, good)
    raise AssertionError(f"there is no result of input file {index}")
