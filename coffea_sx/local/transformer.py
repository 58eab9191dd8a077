"""What a pool process does: run a query over one input file and write the result."""

from __future__ import annotations

import ast
import base64
import hashlib
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import QueryError
from ..redact import redact
from .resources import limit_file, limit_process

REASON_LENGTH = 1000
CODEGENS = ("uproot", "uproot-raw")
# Runs the client's own code, so a server offers it only when its owner says so.
PYTHON = "python"
# What a column is called that has no name.
BRANCH = "branch"


@dataclass(frozen=True)
class Outcome:
    """What became of one input file.

    Attributes
    ----------
    input_path : str
        The replica that worked, or the first one when none did.
    reason : str or None
        Why it failed; None when it did not.
    n_events, nbytes : int
        Events and bytes of the result.
    md5 : str
        Of the result's bytes, in hexadecimal digits.
    seconds : float
        Wall time.
    """

    input_path: str
    reason: str | None = None
    n_events: int = 0
    nbytes: int = 0
    md5: str = ""
    seconds: float = 0.0


def generate_source(selection: str, codegen: str = "uproot") -> str:
    """Check a selection, and return what the transformer runs.

    Parameters
    ----------
    selection : str
        qastle for ``uproot``, JSON for ``uproot-raw``, base64 of a Python source for ``python``.
    codegen : str
        One of `CODEGENS`, or `PYTHON`.

    Returns
    -------
    str
        The Python source of ``run_query`` for ``python``, and the selection itself otherwise: where
        it is run, it is checked again.

    Raises
    ------
    QueryError
        If it asks for anything but columns, arithmetic and functions of them.
    Exception
        Whatever the translation raises, with its own message.
    """
    if len(selection) == 0:
        raise ValueError("Requested codegen for an empty string.")
    if codegen == "uproot-raw":
        from ..forms.uproot_raw import check_selection

        check_selection(selection)
        return selection
    if codegen == PYTHON:
        return _decode_python(selection)
    from ..forms.program import program

    try:
        program(selection)
    except QueryError as error:
        # What the translator refuses, a server refuses in its words.
        raise error.__cause__ or error from None
    return selection


def transform_file(
    codegen: str, source: str, replicas: list[str], output_path: str, result_format: str
) -> Outcome:
    """Run a query over the first replica that works and write the result.

    With ``python`` this runs the code of whoever submitted it, with the rights of the server's
    owner. Nothing confines it but that it runs in a process of its own.

    Parameters
    ----------
    codegen : str
        One of `CODEGENS`, or `PYTHON`.
    source : str
        From `generate_source`.
    replicas : list of str
        Paths or URLs of the same input file, tried in order.
    output_path : str
        Where the result goes; nothing is left there after a failure.
    result_format : str
        One that `coffea_sx.forms.writers.write` knows.

    Returns
    -------
    Outcome
        Failures of the query and of the input file are outcomes too.
    """
    start = time.perf_counter()
    reasons = []
    for path in replicas:
        try:
            n_events = _TRANSFORMS[codegen](source, path, output_path, result_format)
        except BaseException as error:
            # A client's function may raise what would end the server that waits for this.
            Path(output_path).unlink(missing_ok=True)
            reasons.append(describe_error(error))
            continue
        return Outcome(
            input_path=path,
            n_events=n_events,
            nbytes=Path(output_path).stat().st_size,
            md5=_md5(output_path),
            seconds=time.perf_counter() - start,
        )
    return Outcome(
        input_path=replicas[0],
        reason="; ".join(reasons)[:REASON_LENGTH],
        seconds=time.perf_counter() - start,
    )


def transform_within_limits(
    codegen: str, source: str, replicas: list[str], output_path: str, result_format: str
) -> Outcome:
    """Do `transform_file` in a pool process, which ends when it takes too long."""
    limit_file()
    return transform_file(codegen, source, replicas, output_path, result_format)


def describe_error(error: BaseException) -> str:
    """Return the type and the message of an error, without secrets of URLs."""
    text = f"{type(error).__name__}: {error}".strip()
    # Twice, as a secret that is cut is not known any more.
    return redact(text[: 10 * REASON_LENGTH])[:REASON_LENGTH]


def begin_process() -> None:
    """Prepare a pool process: within limits, and ended with the one that started it.

    It ends even when that one is killed.
    """
    import multiprocessing
    import signal
    from multiprocessing.connection import wait

    # Ctrl-C in the terminal goes to every process: only the one that started us decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    limit_process()
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def poller() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=poller, name="parent watch", daemon=True).start()


def process_id() -> int:
    """Return the id of the pool process that runs this."""
    return os.getpid()


def _transform_func_adl(selection: str, path: str, output_path: str, result_format: str) -> int:
    import dask
    import uproot

    from ..forms.program import program
    from ..forms.writers import write

    query = program(selection)
    tree = query.tree or _first_tree(path)
    events = uproot.dask({path: tree}, filter_branch=_is_interpretable)
    with dask.config.set(scheduler="sync"):
        array = query.run(events).compute()
    return write(array, output_path, result_format)


def _first_tree(path: str) -> str:
    import uproot

    with uproot.open({path: None}) as file:
        return next(name for name, kind in file.classnames().items() if kind == "TTree")


def _is_interpretable(branch: Any) -> bool:
    """Say whether a branch can be read as an array; the others are not there for a query."""
    from uproot.interpretation.identify import UnknownInterpretation
    from uproot.interpretation.objects import CannotBeAwkward

    interpretation = branch.interpretation
    parts = [interpretation, *getattr(interpretation, "subbranches", {}).values()]
    if any(isinstance(part, UnknownInterpretation) for part in parts):
        return False
    try:
        interpretation.awkward_form(None)
    except CannotBeAwkward:
        return False
    return True


def _transform_raw(selection: str, path: str, output_path: str, result_format: str) -> int:
    import uproot

    from ..forms.uproot_raw import read_objects, read_trees
    from ..forms.writers import write_trees

    with uproot.open({path: None}) as file:
        arrays, objects = read_trees(selection, file), read_objects(selection, file)
        return write_trees(arrays, objects, output_path, result_format)


def _transform_python(source: str, path: str, output_path: str, result_format: str) -> int:
    """Run a client's function and write what it returns, as the real transformer does.

    An array becomes the tree ``servicex``, a dict one tree for each key; the events counted are
    those of the last tree. Without events every branch is of float64. Parquet has no place for
    more than the first key.
    """
    from ..forms.writers import TREE, write, write_trees

    # A new one for each file: what an earlier one left in its globals is not this one's.
    returned = _run_query(source)(path)
    arrays = returned if isinstance(returned, dict) else {TREE: returned}
    _check_arrays(arrays)
    if result_format == "parquet":
        return write(next(iter(arrays.values())), output_path, result_format)
    if result_format != "root-file":
        raise ValueError(f"the results of a Python function cannot be written as {result_format!r}")
    trees = {name: _with_branches(array) for name, array in arrays.items()}
    if list(trees) == [TREE]:
        return write(trees[TREE], output_path, result_format)
    write_trees(trees, {}, output_path, result_format)
    return len(list(trees.values())[-1])


def _check_arrays(arrays: dict[str, Any]) -> None:
    import awkward as ak

    if not arrays:
        raise ValueError("run_query returned no arrays")
    for array in arrays.values():
        if not isinstance(array, ak.Array):
            raise TypeError(
                "run_query must return an awkward array or a dict of them, not "
                f"{type(array).__name__}"
            )


def _with_branches(array: Any) -> Any:
    """Return a record of columns, as a TTree needs it."""
    import awkward as ak
    import numpy as np

    if not len(array):
        return ak.zip({name: np.zeros(0) for name in array.fields or [BRANCH]})
    return array if array.fields else ak.zip({BRANCH: array}, depth_limit=1)


_TRANSFORMS = {
    "uproot": _transform_func_adl,
    "uproot-raw": _transform_raw,
    PYTHON: _transform_python,
}


def _decode_python(selection: str) -> str:
    """Return the source in a selection of ``python``, which is what PythonFunction writes."""
    source = base64.b64decode(selection, validate=True).decode("ascii")
    for node in ast.parse(source).body:
        targets = node.targets if isinstance(node, ast.Assign) else [node]
        for target in targets:
            if "run_query" in (getattr(target, "name", None), getattr(target, "id", None)):
                return source
    raise ValueError("the source defines no function run_query")


def _run_query(source: str) -> Any:
    namespace: dict[str, Any] = {}
    # The source of a client that was let in to run its own code.
    code = compile(source, "<generated query>", "exec", dont_inherit=True)
    exec(code, namespace)  # noqa: S102
    return namespace["run_query"]


def _md5(path: str) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
