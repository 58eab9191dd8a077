"""Read a TTree with uproot's own blockwise reader, after its form was checked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import CorruptFile, FormError, FormMismatch, ReadError, ServiceXError
from ..forms import DeliveredForm
from ..forms.guard import check
from ..forms.observed import DOCUMENTATION, observed_forms
from ..storage.filesystem import address
from ..transform.outcomes import Delivered
from ..transform.watch import Watch


def blockwise_reader(delivered: DeliveredForm, form_mapping: Any) -> Any:
    """Return the function with which ``uproot.dask`` reads a partition of this form.

    It implements dask-awkward's protocols for mocking and projection; its ``read_tree`` reads the
    columns that it was projected to.
    """
    import uproot

    events = uproot.dask(
        {"not opened": delivered.tree},
        open_files=False,
        known_base_form=delivered.base_form,
        full_paths=True,
        ak_add_doc=DOCUMENTATION,
        form_mapping=form_mapping,
    )
    (layer,) = events.dask.layers.values()
    return layer.io_func


def form_of_first(watch: Watch, result_format: str) -> DeliveredForm:
    """Wait for the first delivered file of a transform, and take its form for that of all.

    Raises
    ------
    TransformError, ServerError
        If none is delivered.
    ReadError
        If it cannot be read.
    FormError
        If it holds no tree.
    """
    first = watch.wait_for_any()
    where = address(watch.address.request_id, first.object_name)
    trees = observed_forms(where, result_format)
    if not trees:
        raise FormError(
            f"The file made of {first.input_file} holds no tree; give the form as form=.",
            input_file=first.input_file,
        )
    return DeliveredForm(trees, next(iter(trees)), result_format)


def read(
    outcome: Delivered,
    request_id: str,
    delivered: DeliveredForm,
    reader: Any,
    step: int,
    steps: int,
) -> Any:
    """Read one step of a delivered file.

    Parameters
    ----------
    outcome : Delivered
    request_id : str
    delivered : DeliveredForm
    reader : object
        From `blockwise_reader`, projected to the columns to read.
    step, steps : int
        Which of how many equal parts of the file.

    Returns
    -------
    awkward.Array

    Raises
    ------
    FormMismatch
        If the file is not what the query promised.
    CorruptFile
        If its bytes cannot be understood.
    ReadError
        If they cannot be had.
    """
    with _opened(outcome, request_id, delivered) as tree:
        if tree is None:
            return reader.mock_empty(backend="cpu")
        wider = check(
            tree,
            reader.common_keys,
            delivered.base_form,
            outcome.input_file,
            outcome.object_name,
        )
        if wider:
            tree = _Widened(tree, wider)
        size = -(-tree.num_entries // steps)
        start = min(step * size, tree.num_entries)
        array, _ = reader.read_tree(tree, start, min(start + size, tree.num_entries))
        return array


class _Widened:
    """A tree of which some columns are converted to wider types as they are read."""

    def __init__(self, tree: Any, dtypes: dict[str, Any]) -> None:
        self._tree = tree
        self._dtypes = dtypes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tree, name)

    def __contains__(self, column: str) -> bool:
        return column in self._tree

    def arrays(self, *columns: Any, **options: Any) -> dict[str, Any]:
        """Read columns as ``uproot.TTree.arrays(how=dict)`` does."""
        import awkward as ak

        arrays: dict[str, Any] = self._tree.arrays(*columns, **options)
        for name, dtype in self._dtypes.items():
            arrays[name] = ak.values_astype(arrays[name], dtype)
        return arrays


@contextmanager
def _opened(outcome: Delivered, request_id: str, delivered: DeliveredForm) -> Iterator[Any]:
    import uproot

    facts = {"input_file": outcome.input_file, "object_name": outcome.object_name}
    try:
        with uproot.open({address(request_id, outcome.object_name): None}) as file:
            if not file.keys() and outcome.n_events == 0:
                # What servers write of an input file without the tree.
                yield None
                return
            if delivered.tree not in file:
                raise FormMismatch(
                    f"The file made of {outcome.input_file} should hold the tree "
                    f"{delivered.tree!r}; it holds "
                    f"{', '.join(map(repr, file.keys(cycle=False))) or 'nothing'}.",
                    column="",
                    expected=delivered.tree,
                    found=", ".join(file.keys(cycle=False)),
                    **facts,
                )
            yield file[delivered.tree]
    except ReadError as error:
        raise error.about(outcome.input_file, outcome.object_name) from None
    except (ServiceXError, MemoryError):
        raise
    except Exception as error:
        # uproot reports bytes that it does not understand with whatever its parsers meet first.
        raise CorruptFile(
            f"The file made of {outcome.input_file} (object {outcome.object_name!r} of request "
            f"{request_id}) cannot be read: {type(error).__name__}: {error}",
            **facts,
        ) from None
