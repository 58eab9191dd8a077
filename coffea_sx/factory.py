"""``NanoEventsFactory.from_servicex``: coffea's factory, for events that do not exist yet."""

from __future__ import annotations

import html
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from coffea.nanoevents import NanoAODSchema, NanoEventsFactory

from . import graph
from .dataset import Dataset, InputFiles, identify
from .errors import BadInput
from .forms.delivered import DeliveredForm, delivered_form, is_derivable, known_form
from .forms.raw import input_trees
from .forms.schema import form_mapping, missing
from .probe import probe_forms
from .query import Selection, select
from .readers.partition import form_of_first
from .transform.client import ServiceXClient
from .transform.endpoint import Endpoint, EndpointName, find_endpoint
from .transform.outcomes import Delivered, Failed, Read
from .transform.resolve import TransformHandle
from .transform.source import TransformAddress, owned
from .transform.submit import check_acceptable, files_of, submit
from .transform.watch import Watch

PROBE = "probe"


@dataclass(frozen=True, slots=True)
class TransformStatus:
    """How a transform is doing, as the server says.

    Attributes
    ----------
    request_id, title, status : str
    n_files, n_completed, n_failed : int
        Input files.
    submitted_at : str
        When, in the words of the server (ISO 8601).
    """

    request_id: str
    title: str
    status: str
    n_files: int
    n_completed: int
    n_failed: int
    submitted_at: str


@dataclass(frozen=True, slots=True)
class EventSource:
    """What coffea calls a mapping: makes dask events when it is given a schema.

    Attributes
    ----------
    handle : TransformHandle
    delivered : DeliveredForm
    files : InputFiles
    steps_per_file : int
    """

    handle: TransformHandle
    delivered: DeliveredForm
    files: InputFiles
    steps_per_file: int

    def __call__(self, form_mapping: Any) -> Any:
        """Build the graph of the events. No request is made."""
        return graph.build(
            self.handle, self.delivered, form_mapping, len(self.files), self.steps_per_file
        )


class ServiceXEventsFactory(NanoEventsFactory):
    """A NanoEventsFactory for the results of a ServiceX transform.

    Made by `NanoEventsFactory.from_servicex`. `events()` is coffea's own: it returns a
    ``dask_awkward.Array``, and with ``on_failure="skip"`` a tuple of it and a report.
    """

    _mapping: EventSource

    @classmethod
    def from_servicex(
        cls,
        query: Any,
        dataset: Any,
        *,
        input_form: Any = None,
        form: Any = None,
        mode: str = "dask",
        schemaclass: Any = NanoAODSchema,
        metadata: dict[str, Any] | None = None,
        result_format: str = "root-file",
        codegen: str | None = None,
        title: str | None = None,
        backend: str | None = None,
        url: str | None = None,
        config_path: str | Path | None = None,
        on_failure: str = "raise",
        steps_per_file: int = 1,
        ignore_cache: bool = False,
    ) -> ServiceXEventsFactory:
        """Submit a query to ServiceX and define the events that it will deliver.

        Returns as soon as the number of input files is known. No file needs to exist then: the
        form of the events is derived from the query, and a partition is read when its file is
        there.

        Parameters
        ----------
        query : servicex query or str
            For example ``servicex.query.FuncADL_Uproot().FromTree("Events").Select(...)``, or the
            text of a selection (then with ``codegen``).
        dataset : sequence of str, str, or servicex.dataset object
            Input files in the order of the partitions, or a dataset that ServiceX looks up.
        input_form : str, dict, tree or form, optional
            What the input looks like: a sample file ``{"sample.root": "Events"}``, an open tree,
            an ``ak.forms.Form`` or the path of a saved one. By default the first input file that
            can be opened from here. ``"probe"`` asks ServiceX itself, with a transform of one
            file, where its servers can read the input and you cannot. Not needed for xAOD, whose
            types the query tells.
        form : form, dict, path or DeliveredForm, optional
            What the delivered files look like, if you know it; nothing is derived then. Where
            nothing can be derived (PythonFunction, TopCP) and no form is given, this waits for the
            first delivered file.
        mode : {"dask"}
        schemaclass : coffea schema
        metadata : dict, optional
            Becomes ``events.metadata``.
        result_format : {"root-file", "root-rntuple", "parquet"}
            Format of the delivered files. The events do not depend on it.
        codegen : str, optional
            Instead of the query's own code generator.
        title : str, optional
            What people see in lists of transforms.
        backend, url, config_path : str, optional
            Which ServiceX: a name in ``servicex.yaml``, or an address; ``url="local"`` starts one
            on this machine. ``config_path`` is where ``servicex.yaml`` is. By default the default
            endpoint of the ``servicex.yaml`` that the servicex client would use.
        on_failure : {"raise", "skip"}
            What happens when an input file cannot be transformed or read: ``"raise"`` ends the
            computation with an error that names it; ``"skip"`` leaves its partition empty, and
            `events` returns a report too.
        steps_per_file : int
            Partitions a file.
        ignore_cache : bool
            Transform again, even if this process has submitted the same query before.

        Returns
        -------
        ServiceXEventsFactory

        Raises
        ------
        BadInput
            `QueryError`, `UnknownColumn`, `DatasetError`, `FormError`, `ConfigurationError`:
            before anything is submitted.
        ServerError
            `Unreachable`, `NotAuthorized`, `ProtocolError`: before anything is submitted;
            `RequestRefused`: the server did not take the query.
        BadDataset, EmptyDataset
            If the look-up of a dataset fails or finds nothing.

        Notes
        -----
        Requests to ServiceX: two before submitting, one to submit, and two for the number of input
        files, which are repeated while a dataset is looked up; with ``input_form="probe"`` as many
        again, and those that wait for its one file.
        """
        _check(mode, on_failure, steps_per_file)
        selection = select(query, result_format=result_format, codegen=codegen, title=title)
        wanted = identify(dataset)
        find = partial(_endpoint, backend, url, config_path)
        if isinstance(input_form, str) and input_form == PROBE:
            input_form = _probed(selection, wanted, find())
        delivered = _delivered(selection, form, input_form, wanted)
        if delivered is not None:
            schema = _schema(schemaclass, metadata, delivered)
        # url="local" starts a server, which a query that cannot work should not.
        endpoint = find()
        client = ServiceXClient(endpoint)
        try:
            check_acceptable(client, selection)
            request_id = submit(client, selection, wanted, ignore_cache=ignore_cache)
            files = wanted.files or files_of(client, request_id)
        except BaseException:
            client.close()
            raise
        address = TransformAddress(request_id, endpoint.name, on_failure)
        watch = owned(address)
        if watch is None:
            watch = Watch(client, address, files)
        else:
            client.close()
        if delivered is None:
            delivered = form_of_first(watch, selection.result_format)
            schema = _schema(schemaclass, metadata, delivered)
        source = EventSource(TransformHandle(address, watch), delivered, files, steps_per_file)
        return cls(schema, source, None, mode="dask")

    @property
    def form(self) -> Any:
        """Form of the delivered files (``awkward.forms.RecordForm``), before the schema."""
        return self._mapping.delivered.base_form

    @property
    def npartitions(self) -> int:
        """Number of partitions: input files times ``steps_per_file``."""
        return len(self._mapping.files) * self._mapping.steps_per_file

    @property
    def request_id(self) -> str:
        """What ServiceX calls the transform."""
        return self._mapping.handle.address.request_id

    @property
    def files(self) -> list[dict[str, Any]]:
        """The input files in the order of the partitions, with what is known of each.

        A list of ``{"input_file", "status", "object_name", "n_events", "nbytes", "created_at",
        "reason"}``, where ``status`` is ``"delivered"``, ``"failed"`` or ``"waiting"``, sizes are
        in bytes, and ``created_at`` is when the server wrote the result down (ISO 8601, UTC). No
        request is made: it says what computations have learned so far.
        """
        outcomes = self._watch.ledger.outcomes
        return [
            {"input_file": path, **_described(outcomes.get(i))}
            for i, path in enumerate(self._mapping.files.paths)
        ]

    def status(self) -> TransformStatus:
        """Ask the server how the transform is doing. One request.

        Raises
        ------
        TransformGone
            If the server no longer knows it.
        ServerError
        """
        said = self._watch.client.status(self.request_id)
        return TransformStatus(
            self.request_id,
            said.get("title") or "",
            said["status"],
            said["files"],
            said["files-completed"],
            said["files-failed"],
            str(said["submit-time"]),
        )

    def cancel(self) -> None:
        """Cancel the transform. Files that were delivered stay readable. Two requests.

        Raises
        ------
        RequestRefused
            If it has ended already.
        ServerError, TransformGone
        """
        self._watch.client.cancel(self.request_id)

    @property
    def reads(self) -> list[Read]:
        """When each partition was last read, in the order of the partitions."""
        return [read for _, read in sorted(self._watch.reads.items())]

    @property
    def _watch(self) -> Watch:
        watch = self._mapping.handle.watch
        if watch is None:
            raise BadInput(
                "This factory was pickled and is now in a process that did not submit the query; "
                "ask the one that did."
            )
        return watch

    def __repr__(self) -> str:
        return (
            f"<ServiceXEventsFactory {self.request_id}: {len(self._mapping.files)} input files, "
            f"{self.npartitions} partitions, {len(self.form.fields)} columns>"
        )

    def _repr_html_(self) -> str:
        watch = self._mapping.handle.watch
        outcomes = list(watch.ledger.outcomes.values()) if watch else []
        rows = {
            "request": self.request_id,
            "input files": len(self._mapping.files),
            "delivered": sum(isinstance(o, Delivered) for o in outcomes),
            "failed": sum(isinstance(o, Failed) for o in outcomes),
            "partitions": self.npartitions,
            "columns": ", ".join(self.form.fields),
        }
        cells = "".join(
            f"<tr><th style='text-align:left'>{name}</th><td>{html.escape(str(value))}</td></tr>"
            for name, value in rows.items()
        )
        return f"<table><caption>ServiceX events</caption>{cells}</table>"


def _check(mode: str, on_failure: str, steps_per_file: int) -> None:
    if mode != "dask":
        raise BadInput(
            f"mode={mode!r} is not possible: files that do not exist yet can only be read lazily, "
            'with mode="dask".'
        )
    if on_failure not in ("raise", "skip"):
        raise BadInput(f'on_failure must be "raise" or "skip", got {on_failure!r}.')
    if steps_per_file < 1:
        raise BadInput(f"steps_per_file must be at least 1, got {steps_per_file}.")


def _delivered(
    selection: Selection, form: Any, input_form: Any, dataset: Dataset
) -> DeliveredForm | None:
    """Tell what will be delivered; None if the first delivered file has to tell."""
    if form is not None:
        return known_form(form, selection.result_format)
    if is_derivable(selection):
        paths = dataset.files.paths if dataset.files else ()
        return delivered_form(selection, input_form, paths)
    warnings.warn(
        f"What the code generator {selection.codegen!r} delivers cannot be told from the query: "
        "from_servicex waits for the first file. Give the delivered form as form= to go on at "
        "once.",
        stacklevel=3,
    )
    return None


def _probed(selection: Selection, dataset: Dataset, endpoint: Endpoint) -> Any:
    """Ask ServiceX what the input looks like."""
    if selection.codegen == "uproot-raw":
        trees = input_trees(selection.text)
    elif selection.tree is not None:
        trees = [selection.tree]
    else:
        raise BadInput(f"input_form={PROBE!r} is for queries that read trees.")
    client = ServiceXClient(endpoint)
    try:
        forms = probe_forms(client, dataset, trees)
    finally:
        client.close()
    return forms if selection.codegen == "uproot-raw" else forms[trees[0]]


def _endpoint(backend: str | None, url: str | None, config_path: str | Path | None) -> Endpoint:
    if url == "local":
        from .local import default

        url = default().url
    path = None if config_path is None else str(config_path)
    return find_endpoint(EndpointName(backend, url, path))


def _schema(schemaclass: Any, metadata: dict[str, Any] | None, delivered: DeliveredForm) -> Any:
    """Apply the schema before submitting, and say what it has to say about the columns."""
    mapping = form_mapping(delivered, schemaclass, metadata)
    sentences = missing(delivered, mapping)
    if sentences:
        warnings.warn(" ".join(sentences), stacklevel=3)
    return mapping


def _described(outcome: Delivered | Failed | None) -> dict[str, Any]:
    known: dict[str, Any] = {
        "status": "waiting",
        "object_name": None,
        "n_events": None,
        "nbytes": None,
        "created_at": None,
        "reason": None,
    }
    if isinstance(outcome, Failed):
        known.update(status="failed", reason=outcome.reason)
    elif outcome is not None:
        known.update(
            status="delivered",
            object_name=outcome.object_name,
            n_events=outcome.n_events,
            nbytes=outcome.nbytes,
            created_at=outcome.created_at,
        )
    return known


def install() -> None:
    """Add ``from_servicex`` to coffea's NanoEventsFactory. Doing it twice changes nothing."""
    NanoEventsFactory.from_servicex = ServiceXEventsFactory.from_servicex
