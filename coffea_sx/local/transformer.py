"""Transformer: runs a query over one input file and writes the result."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..redact import redact
from .codegen import PYTHON
from .process_limits import limit_file, limit_process

MAX_REASON = 1000
# Name of a column without a name.
BRANCH = "branch"


@dataclass(frozen=True)
class TransformResult:
    """Result or failure of one input file.

    Attributes
    ----------
    input_path : str
        The replica that could be read, or the first one if none could.
    reason : str or None
        Reason of the failure, None for a result.
    n_events, nbytes : int
        Events and bytes of the result.
    md5 : str
        Of the bytes of the result, in hexadecimal digits.
    seconds : float
        Wall time, in seconds.
    """

    input_path: str
    reason: str | None = None
    n_events: int = 0
    nbytes: int = 0
    md5: str = ""
    seconds: float = 0.0


def transform_file(
    codegen: str, source: str, replicas: list[str], output_path: str, result_format: str
) -> TransformResult:
    """Run a query over the first replica that can be read, and write the result.

    With ``python`` this runs the code of the client with the rights of the server's owner, confined
    only by its own process.

    Parameters
    ----------
    codegen : str
        One of `CODEGENS`, or `PYTHON`.
    source : str
        From `generate_source`.
    replicas : list of str
        Paths or URLs of the same input file, tried in order.
    output_path : str
        Path of the result; there is no file after a failure.
    result_format : str
        One of `coffea_sx.forms.writers.write`.

    Returns
    -------
    TransformResult
        Also for failures of the query and of the input file.
    """
    start = time.perf_counter()
    reasons = []
    for path in replicas:
        try:
            n_events = _TRANSFORMS[codegen](source, path, output_path, result_format)
        except BaseException as error:
            # The client's function may raise SystemExit, which would end the process.
            Path(output_path).unlink(missing_ok=True)
            reasons.append(describe_error(error))
            continue
        return TransformResult(
            input_path=path,
            n_events=n_events,
            nbytes=Path(output_path).stat().st_size,
            md5=_md5(output_path),
            seconds=time.perf_counter() - start,
        )
    return TransformResult(
        input_path=replicas[0],
        reason="; ".join(reasons)[:MAX_REASON],
        seconds=time.perf_counter() - start,
    )


def transform_within_limits(
    codegen: str, source: str, replicas: list[str], output_path: str, result_format: str
) -> TransformResult:
    """Call `transform_file` with limited processor time, as in a worker process."""
    limit_file()
    return transform_file(codegen, source, replicas, output_path, result_format)


def describe_error(error: BaseException) -> str:
    """Return the type and the message of an error, without secrets of URLs."""
    text = f"{type(error).__name__}: {error}".strip()
    # Cut twice, as a secret that is cut in the middle is not recognized.
    return redact(text[: 10 * MAX_REASON])[:MAX_REASON]


def begin_process() -> None:
    """Set the limits of a worker process, and end it with its parent, even if that is killed."""
    import multiprocessing
    import signal
    from multiprocessing.connection import wait

    # Ctrl-C in the terminal goes to every process, but only the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    limit_process()
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def exit_with_parent() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=exit_with_parent, name="exit with parent", daemon=True).start()


def process_id() -> int:
    """Return the id of this process."""
    return os.getpid()


def _transform_func_adl(selection: str, path: str, output_path: str, result_format: str) -> int:
    import uproot

    from ..forms.program import program
    from ..forms.writers import write

    query = program(selection)
    with uproot.open({path: query.tree or _first_tree(path)}) as tree:
        events = _events(tree)
        query.trace(events.layout.form)
        array = query.run(events)
        return write(array, output_path, result_format)


def _events(tree: Any) -> Any:
    """Return the events of a tree, whose columns are read when they are touched."""
    names: set[str] = set()

    def is_read(branch: Any) -> bool:
        # As with uproot.dask, the first of several branches with one name is the column.
        if branch.name in names or not _is_interpretable(branch):
            return False
        names.add(branch.name)
        return True

    return tree.arrays(virtual=True, filter_branch=is_read)


def _first_tree(path: str) -> str:
    import uproot

    with uproot.open({path: None}) as file:
        return next(name for name, kind in file.classnames().items() if kind == "TTree")


def _is_interpretable(branch: Any) -> bool:
    """Return True if a branch can be read as an array; queries do not see the others."""
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
    """Run a client's function and write the arrays that it returns, as a real transformer does.

    An array becomes the tree ``servicex``, a dict one tree for each key. The number of events is
    that of the last tree. Without events every branch is of float64. Parquet holds the first key
    only.
    """
    from ..forms.writers import TREE, write, write_trees

    # Compiled for each file, so that files share no globals.
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
    """Return an array of records, as a TTree needs it."""
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


def _run_query(source: str) -> Any:
    namespace: dict[str, Any] = {}
    # The owner of the server allows its clients to run their own code.
    code = compile(source, "<generated query>", "exec", dont_inherit=True)
    exec(code, namespace)  # noqa: S102
    return namespace["run_query"]


def _md5(path: str) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
