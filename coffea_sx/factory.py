"""``NanoEventsFactory.from_servicex``: coffea's factory, for events that do not exist yet."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from coffea.nanoevents import NanoAODSchema, NanoEventsFactory

from .dataset import Dataset, InputFiles, identify
from .errors import BadInput, DeadlineExceeded, TransformError, TransformStalled
from .forms.output_form import OutputForm
from .graph import layers
from .graph.routing import Routing, TransformHandle
from .plan import Plan, endpoint_of, expect, make_plan, make_terms, planned, schema_of, warn
from .policy import LENIENT, PollPolicy
from .polling.lookup import UNNAMED, files_of
from .polling.outcomes import Delivered, Failed, Outcome, Read
from .polling.poller import Poller
from .polling.registry import TransformAddress, get_poller
from .polling.state import Counts
from .query import Selection
from .readers.partition import form_of_first
from .report import Report, add_up, check_requests, rows_of
from .servicex.client import ServiceXClient, client_of
from .servicex.config import Endpoint
from .servicex.models import TransformStatus
from .servicex.submit import check_acceptable, selection_of, submit

# How ServiceX writes the id of a request.
_REQUEST_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class EventSource:
    """What coffea calls a mapping: makes dask events when it is given a schema.

    Attributes
    ----------
    selection : Selection
    deliveries : Routing
    delivered : OutputForm
    files : InputFiles
    steps_per_file : int
    """

    selection: Selection
    routing: Routing
    delivered: OutputForm
    files: InputFiles
    steps_per_file: int

    def __call__(self, form_mapping: Any) -> Any:
        """Build the graph of the events. No request is made."""
        return layers.build(
            self.routing, self.delivered, form_mapping, len(self.files), self.steps_per_file
        )


@runtime_checkable
class ShowsProgress(Protocol):
    """What `coffea_sx.progress.TransformProgress` does."""

    def look_up(self, name: str, n_known: int) -> None:
        """Show how many input files of a sample were found."""

    def show(self, name: str, factory: ServiceXEventsFactory) -> None:
        """Show how far a sample is."""


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
        max_failed: int | float | None = None,
        steps_per_file: int = 1,
        ignore_cache: bool = False,
        pace: PollPolicy | None = None,
        progress: ShowsProgress | None = None,
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
        form : form, dict, path or OutputForm, optional
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
        max_failed : int or float, optional
            With ``"skip"``: how many input files may be left out before a computation fails, as a
            number of files (int) or a fraction of them (float). Any number by default.
        steps_per_file : int
            Partitions a file.
        ignore_cache : bool
            Transform again, even if the same query was submitted before: by this process, or, with
            a ``servicex.yaml``, by `from_servicex` or ``servicex.deliver`` in any.
        pace : PollPolicy, optional
            How often ServiceX is asked, and how long to wait for it.
        progress : TransformProgress, optional
            Shows how far the look-up, the transform and the reading are.

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
            `RequestRefused`: the server did not take the query; `OutcomeUnknown`: it does not say
            whether it did.
        BadDataset, EmptyDataset
            If the look-up of a dataset fails or finds nothing.

        Notes
        -----
        Requests to ServiceX: one before the first submission of a process, one to submit, and for
        a dataset that is looked up two at a time until its files are known; with
        ``input_form="probe"`` as many again, and those that wait for its one file. Where the same
        query was submitted before, one for its status, and one to ServiceX and one to the store if
        its results should be there.
        """
        terms = make_terms(
            mode, schemaclass, metadata, on_failure, max_failed, steps_per_file, pace
        )
        find = partial(endpoint_of, backend, url, config_path)
        plan = make_plan(
            query,
            dataset,
            terms,
            input_form=input_form,
            form=form,
            result_format=result_format,
            codegen=codegen,
            title=title,
            find=find,
        )
        # url="local" starts a server, which a query that cannot work should not.
        return cls.from_plan(plan, find(), ignore_cache=ignore_cache, progress=progress)

    @classmethod
    def from_plan(
        cls,
        plan: Plan,
        endpoint: Endpoint,
        *,
        ignore_cache: bool = False,
        progress: ShowsProgress | None = None,
    ) -> ServiceXEventsFactory:
        """Submit what was planned; as `from_servicex`, which plans too."""
        expect("ignore_cache", ignore_cache, bool, "True or False")
        _expect_progress(progress)
        client = client_of(endpoint)
        check_acceptable(client, plan.selection)
        request_id = submit(
            client,
            plan.selection,
            plan.dataset,
            ignore_cache=ignore_cache,
            skips=plan.terms.failure_policy.skips,
        )
        return cls._watching(plan, client, request_id, progress)

    @classmethod
    def _watching(
        cls, plan: Plan, client: ServiceXClient, request_id: str, progress: ShowsProgress | None
    ) -> ServiceXEventsFactory:
        """Watch a transform that was submitted, once its input files are known."""
        name = _name(plan)
        told = None if progress is None else partial(progress.look_up, name)
        if not client.info().lists_results:
            warn(
                f"ServiceX at {client.endpoint.url} is of a generation that tells its results only "
                "when a transform is over: nothing can be read before that."
            )
        pace = plan.terms.pace
        files = plan.dataset.files or files_of(client, request_id, pace or PollPolicy(), told)
        poller = _watched(client, request_id, files, plan.selection, pace)
        delivered, schema = plan.delivered, plan.schema
        if delivered is None:
            delivered = form_of_first(poller, plan.selection.result_format)
            schema = schema_of(delivered, plan.terms)
        handle = TransformHandle(
            poller.address, plan.terms.failure_policy.among(len(files)), poller
        )
        source = EventSource(
            plan.selection, Routing((handle,)), delivered, files, plan.terms.steps_per_file
        )
        factory = cls(schema, source, None, mode="dask")
        if progress is not None:
            progress.show(name, factory)
        return factory

    @classmethod
    def from_request_id(
        cls,
        request_id: str,
        dataset: Any = None,
        *,
        input_form: Any = None,
        form: Any = None,
        mode: str = "dask",
        schemaclass: Any = NanoAODSchema,
        metadata: dict[str, Any] | None = None,
        codegen: str | None = None,
        backend: str | None = None,
        url: str | None = None,
        config_path: str | Path | None = None,
        on_failure: str = "raise",
        max_failed: int | float | None = None,
        steps_per_file: int = 1,
        pace: PollPolicy | None = None,
        progress: ShowsProgress | None = None,
    ) -> ServiceXEventsFactory:
        """Define the events of a transform that was submitted before, here or elsewhere.

        Parameters
        ----------
        request_id : str
            A UUID, as ``servicex transforms list`` and `request_id` show it.
        dataset : sequence of str, optional
            All input files, in the order of the partitions; by default in the order in which they
            were submitted, or were found.
        codegen : str, optional
            The code generator of the query, where the server does not tell it clearly.
        input_form, form, mode, schemaclass, metadata, backend, url, config_path, on_failure, \
max_failed, steps_per_file, pace, progress
            As for `from_servicex`.

        Returns
        -------
        ServiceXEventsFactory
            With the same partitions as that of `from_servicex`; a server of 2024 does not tell the
            order in which files were submitted, so they are in that of their names.

        Raises
        ------
        TransformGone
            If the server does not know the request, or no longer.
        BadInput, ServerError, BadDataset, EmptyDataset
            As for `from_servicex`.

        Notes
        -----
        Requests to ServiceX: two for the query, and two for the number of input files, which are
        repeated while a dataset is looked up.
        """
        request_id = _known_id(request_id)
        terms = make_terms(
            mode, schemaclass, metadata, on_failure, max_failed, steps_per_file, pace
        )
        _expect_progress(progress)
        listed = None if dataset is None else identify(dataset).files
        client = client_of(endpoint_of(backend, url, config_path))
        selection = selection_of(client, request_id, codegen)
        told = None if progress is None else partial(progress.look_up, request_id)
        files = files_of(client, request_id, pace or PollPolicy(), told, listed)
        plan = planned(selection, Dataset(None, files), terms, input_form, form)
        return cls._watching(plan, client, request_id, progress)

    def retry_failed(self, report: Any = None) -> ServiceXEventsFactory:
        """Submit the input files that failed again; define events of what succeeds then.

        Partitions stay what they are: those of files that were delivered are read from the first
        transform, the others from the new one, each in its place.

        Parameters
        ----------
        report : ak.Array or Report, optional
            The computed report of events with ``on_failure="skip"``. Without it those are
            transformed again of which this process knows that they could not be transformed or,
            when they were read last, could not be read.

        Returns
        -------
        ServiceXEventsFactory
            This one, if nothing has failed.

        Raises
        ------
        BadInput
            If a transform has stalled, or has passed its deadline, and goes on at the server:
            `cancel` ends it, and then all files are submitted again that it has not delivered. If
            the server does not name the files that failed: one of 2024 that looked them up.
        TransformGone
            If the server no longer knows a transform that has not delivered all of its files.
        ServerError, RequestRefused
            If they cannot be submitted.

        Notes
        -----
        Files of a transform that goes on stay where they are; ``max_failed`` then holds for the
        files of each transform.
        One request to submit, and one for what the server can do. If it is not known of all files
        what became of them, one for the status of their transform, and if that has ended, those
        that find it out.
        """
        if not isinstance(report, Report):
            self._learn_endings()
            report = self.report(report)
        check_requests((one.request_id for one in report.inputs), self._request_ids)
        lost = [i for i, one in enumerate(report.inputs) if one.status == "failed"]
        if not lost:
            return self
        if any(self._mapping.files.paths[i].startswith(UNNAMED) for i in lost):
            raise BadInput(
                "This server does not name the files that failed, so they cannot be submitted "
                "again; submit the whole query with ignore_cache=True."
            )
        first = self._mapping.routing.handles[0]
        files = InputFiles(tuple(self._mapping.files.paths[i] for i in lost))
        client = self._poller.client
        request_id = submit(
            client, self._mapping.selection, Dataset(None, files), ignore_cache=True
        )
        poller = _watched(client, request_id, files, self._mapping.selection, self._poller.pace)
        failure_policy = first.failure_policy.among(len(self._mapping.files))
        handle = TransformHandle(poller.address, failure_policy, poller)
        routing = self._mapping.routing.rerouted(
            len(self._mapping.files), {index: number for number, index in enumerate(lost)}, handle
        )
        return type(self)(self._schema, replace(self._mapping, routing=routing), None, mode="dask")

    def _learn_endings(self) -> None:
        """Find out what became of files whose transform has ended while nobody waited for it.

        Raises
        ------
        BadInput
            If it has not ended, and was given up.
        """
        routing = self._mapping.routing
        places = [routing.of(index) for index in range(len(self._mapping.files))]
        for handle in routing.handles:
            poller = _owned_watch(handle)
            numbers = (number for its, number in places if its is handle)
            waiting = [number for number in numbers if number not in poller.outcomes]
            if not waiting:
                continue
            request_id = handle.address.request_id
            if poller.client.status(request_id).is_over:
                _wait_for_all(poller, waiting)
            elif isinstance(poller.ending, (TransformStalled, DeadlineExceeded)):
                raise BadInput(
                    f"Request {request_id} was given up here, but goes on at the server, and has "
                    f"not delivered {len(waiting)} input files. End it before they are submitted "
                    "again: cancel(), then retry_failed()."
                )

    def report(self, rows: Any = None) -> Report:
        """Tell what became of every input file, as far as is known. No request is made.

        Parameters
        ----------
        rows : ak.Array, optional
            The computed report of events with ``on_failure="skip"``. Without it the report says
            what was delivered and what could not be transformed, but of what was read only that.

        Returns
        -------
        Report

        Raises
        ------
        BadInput
            If they are not computed, or of other events.
        """
        steps = self._mapping.steps_per_file
        if rows is None:
            of_read = self.reads
            known = [_row_of(read, self._outcome(read.partition // steps)) for read in of_read]
        else:
            known = rows_of(rows, self._request_ids)
        outcomes = (self._outcome(index) for index in range(len(self._mapping.files)))
        return add_up(self._mapping.files.paths, outcomes, known, steps)

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
        """What ServiceX calls the transform; after `retry_failed`, the last one."""
        return self._mapping.routing.handles[-1].address.request_id

    @property
    def files(self) -> list[dict[str, Any]]:
        """The input files in the order of the partitions, with what is known of each.

        A list of ``{"input_file", "status", "object_name", "n_events", "nbytes", "created_at",
        "reason"}``, where ``status`` is ``"delivered"``, ``"failed"`` or ``"waiting"``, sizes are
        in bytes, and ``created_at`` is when the server wrote the result down (ISO 8601, UTC). No
        request is made: it says what computations have learned so far.
        """
        return [
            {"input_file": path, **_described(self._outcome(i)[1])}
            for i, path in enumerate(self._mapping.files.paths)
        ]

    @property
    def counts(self) -> Counts:
        """How many input files there are, and how many were delivered or have failed.

        No request is made: it says what computations have learned so far.
        """
        if self._mapping.routing.routes is None:
            return self._poller.counts
        outcomes = [self._outcome(i)[1] for i in range(len(self._mapping.files))]
        n_failed = sum(isinstance(outcome, Failed) for outcome in outcomes)
        n_known = sum(outcome is not None for outcome in outcomes)
        return Counts(len(outcomes), n_known - n_failed, n_failed)

    def status(self) -> TransformStatus:
        """Ask the server how the transform is doing. One request.

        Raises
        ------
        TransformGone
            If the server no longer knows it.
        ProtocolError
            If it does not say what it is doing with how many files.
        ServerError
        """
        return self._poller.client.status(self.request_id)

    def cancel(self) -> None:
        """Cancel the transform. Files that were delivered stay readable. Two requests.

        Raises
        ------
        RequestRefused
            If it has ended already.
        ServerError, TransformGone
        """
        self._poller.client.cancel(self.request_id)

    @property
    def reads(self) -> list[Read]:
        """When each partition was last read, in the order of the partitions."""
        routing, steps = self._mapping.routing, self._mapping.steps_per_file
        found = [
            read
            for handle in routing.handles
            if handle.poller is not None
            for (npartitions, partition), read in list(handle.poller.reads.items())
            # Those of other factories of the transform, or of a file that it does no longer.
            if npartitions == self.npartitions and routing.of(partition // steps)[0] is handle
        ]
        return sorted(found, key=lambda read: read.partition)

    @property
    def _request_ids(self) -> set[str]:
        return {handle.address.request_id for handle in self._mapping.routing.handles}

    @property
    def _poller(self) -> Poller:
        return _owned_watch(self._mapping.routing.handles[-1])

    def _outcome(self, index: int) -> tuple[str, Outcome | None]:
        """Return the request that does an input file, and what is known of the file there."""
        handle, number = self._mapping.routing.of(index)
        return handle.address.request_id, _owned_watch(handle).outcomes.get(number)

    def __repr__(self) -> str:
        return (
            f"<ServiceXEventsFactory {self.request_id}: {len(self._mapping.files)} input files, "
            f"{self.npartitions} partitions, {len(self.form.fields)} columns>"
        )

    def _repr_html_(self) -> str:
        rows = {
            "request": self.request_id,
            "input files": len(self._mapping.files),
            "partitions": self.npartitions,
            "columns": ", ".join(self.form.fields),
        }
        if self._mapping.routing.handles[-1].poller is not None:
            counts = self.counts
            rows.update({"delivered": counts.delivered, "failed": counts.failed})
        cells = "".join(
            f"<tr><th style='text-align:left'>{name}</th><td>{html.escape(str(value))}</td></tr>"
            for name, value in rows.items()
        )
        return f"<table><caption>ServiceX events</caption>{cells}</table>"


def _known_id(request_id: Any) -> str:
    """Return an id as ServiceX writes it, if it is one.

    Raises
    ------
    BadInput
    """
    name = request_id.strip().lower() if isinstance(request_id, str) else ""
    if _REQUEST_ID.fullmatch(name):
        return name
    # Servers know a request by that number, too, but not its results.
    number = " A number is that of a row in its database." if name.isdigit() else ""
    raise BadInput(
        f"request_id={request_id!r} is not the id of a request.{number} Ids look like "
        "'d8574447-e5e2-40ff-a0c4-bde618f1483f': `servicex transforms list` shows them, and "
        "factory.request_id."
    )


def _expect_progress(progress: ShowsProgress | None) -> None:
    expect("progress", progress, (ShowsProgress, type(None)), "a TransformProgress")


def _name(plan: Plan) -> str:
    """Name a sample to people."""
    return str((plan.terms.metadata or {}).get("dataset") or plan.selection.title)


def _watched(
    client: ServiceXClient,
    request_id: str,
    files: InputFiles,
    selection: Selection,
    pace: PollPolicy | None,
) -> Poller:
    """Return the watch of a transform: the one that this process has, if there is one."""
    address = TransformAddress(request_id, client.endpoint.name, files.order)
    poller: Poller | None = get_poller(address)
    if poller is None:
        return Poller(client, address, files, pace, selection.result_format)
    if pace is not None:
        poller.set_policy(pace)
    return poller


def _wait_for_all(poller: Poller, numbers: Sequence[int]) -> None:
    """Wait until it is known of files what became of them, by the end of the transform."""
    for number in numbers:
        try:
            poller.wait(number, failure_policy=LENIENT)
        except TransformError:
            # How it ended is known by now of every file, or of none.
            if number not in poller.outcomes:
                raise


def _owned_watch(handle: TransformHandle) -> Poller:
    if handle.poller is None:
        raise BadInput(
            "This factory was pickled and is now in a process that did not submit the query; "
            "ask the one that did."
        )
    return handle.poller


def _row_of(read: Read, of_file: tuple[str, Outcome | None]) -> dict[str, Any]:
    """Say of a partition that was read what its row of a report says."""
    return {
        "partition": read.partition,
        "request_id": of_file[0],
        "n_events": read.n_events,
        "failed_at": "read" if read.error else None,
        "exception": read.error,
        "message": None,
    }


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
