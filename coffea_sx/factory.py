"""``NanoEventsFactory.from_servicex``: coffea's factory, for events that do not exist yet."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

from coffea.nanoevents import NanoAODSchema

from .dataset import Dataset, InputFiles, identify
from .errors import BadInput
from .event_source import EventSource, make_handle, poller_of
from .graph.routing import Routing
from .options import Options, ProgressDisplay
from .plan import Plan, events_mapping, make_plan, plan_selection, warn
from .policy import PollPolicy
from .polling.lookup import files_of
from .readers.partition import form_of_delivered
from .report import Report
from .retry import complete_if_over, complete_outcomes, retry_failed
from .servicex.client import ServiceXClient, client_of
from .servicex.config import Endpoint
from .servicex.models import TransformStatus
from .servicex.submit import check_acceptable, selection_of, submit
from .views import EventsView

# Id of a request as ServiceX writes it.
_REQUEST_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class ServiceXEventsFactory(EventsView):
    """A NanoEventsFactory for the results of a ServiceX transform.

    Made by `NanoEventsFactory.from_servicex`. `events()` is coffea's own: it returns a
    ``dask_awkward.Array``, and with ``on_failure="skip"`` a tuple of it and a report.
    """

    @classmethod
    def from_servicex(
        cls,
        query: Any,
        dataset: Any,
        *,
        input_form: Any = None,
        form: Any = None,
        mode: str = "dask",
        entry_start: int | None = None,
        entry_stop: int | None = None,
        preload: Any = None,
        access_log: list[Any] | None = None,
        buffer_cache: Any = None,
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
        progress: ProgressDisplay | None = None,
    ) -> ServiceXEventsFactory:
        """Submit a query to ServiceX and define the events that it will deliver.

        Returns as soon as the number of input files is available. No result needs to exist then:
        the form of the events is derived from the query, and a partition is read when its file
        was delivered.

        Parameters
        ----------
        query : servicex query or str
            For example ``servicex.query.FuncADL_Uproot().FromTree("Events").Select(...)``, or the
            text of a selection (then with ``codegen``).
        dataset : sequence of str, str, mapping or servicex.dataset object
            Input files in the order of the partitions, or a dataset that ServiceX looks up. As for
            ``from_root``, ``{path: "Events"}`` or ``{path: {"object_path": "Events", "steps":
            [[0, 10], [10, 20]]}}``: the tree must be that of the query; each file then has as many
            partitions, of equal size, as it has steps.
        input_form : str, dict, tree or form, optional
            Form of the input: a sample file ``{"sample.root": "Events"}``, an open tree, an
            ``ak.forms.Form`` or the path of a saved one. By default the form of the first input
            file that this machine can open. ``"probe"`` lets ServiceX read it, with a transform of
            one file, for input that only its servers can read. Not needed for xAOD, whose types
            are in the query.
        form : form, dict, path or OutputForm, optional
            Form of the delivered files, in place of the derived one. For code generators whose
            results cannot be derived (PythonFunction, TopCP) and without a form, this waits for
            the first delivered file.
        mode : {"dask", "virtual", "eager"}
            ``"dask"``: `events` is a graph, made at once; only this needs dask-awkward.
            ``"virtual"``: `events` waits for all files and is one array, in which a column of all
            files is read when it is touched. ``"eager"``: as ``"virtual"``, and all columns are
            read.
        entry_start, entry_stop : int, optional
            For ``"virtual"`` and ``"eager"``, as the following: the first event, and the first that
            is left out, counted over all files.
        preload : callable or collection of str, optional
            Columns that `events` reads together, at once.
        access_log : list, optional
            Gets a record of each column that is touched.
        buffer_cache : mutable mapping, optional
            Holds the buffers that were read.
        schemaclass : coffea schema
        metadata : dict, optional
            Becomes ``events.metadata``.
        result_format : {"root-file", "root-rntuple", "parquet"}
            Format of the delivered files. The events do not depend on it.
        codegen : str, optional
            Code generator, in place of the query's own.
        title : str, optional
            Title in lists of transforms.
        backend, url, config_path : str, optional
            The endpoint comes from ``servicex.yaml``, as for the servicex client; ``backend``
            picks one by name, ``url`` overrides it, ``url="local"`` starts a server in this
            process. ``config_path`` is the path of ``servicex.yaml``.
        on_failure : {"raise", "skip"}
            If an input file cannot be transformed or read, ``"raise"`` ends the computation with
            an error that names the file; ``"skip"`` leaves its partition empty, and `events`
            returns a report too.
        max_failed : int or float, optional
            With ``"skip"``: maximum number (int) or fraction (float) of input files that may be
            left out before a computation fails. No limit by default.
        steps_per_file : int
            Number of partitions for each file.
        ignore_cache : bool
            Transform again, even if the same query was submitted before: by this process, or, with
            a ``servicex.yaml``, by `from_servicex` or ``servicex.deliver`` in any process.
        pace : PollPolicy, optional
            Time between requests to ServiceX, and limits of waiting.
        progress : TransformProgress, optional
            Shows the progress of the look-up, the transform and the reading.

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
            `RequestRefused`: the server refused the query; `OutcomeUnknown`: the server did not
            confirm the submission.
        BadDataset, EmptyDataset
            If the look-up of a dataset fails or finds nothing.

        Notes
        -----
        Requests to ServiceX: one before the first submission of a process, one to submit, and for
        a dataset that is looked up two at a time until its files are available; with
        ``input_form="probe"`` as many again, and those that wait for its one file. If the same
        query was submitted before, one for its status, and one to ServiceX and one to the store if
        its results should be there.
        """
        options = Options.of(locals())
        plan = make_plan(
            query, dataset, options, result_format=result_format, codegen=codegen, title=title
        )
        # Only now: url="local" starts a server, which a plan that fails must not do.
        return cls.from_plan(plan, options.endpoint())

    @classmethod
    def from_plan(cls, plan: Plan, endpoint: Endpoint) -> ServiceXEventsFactory:
        """Submit a plan. Errors and requests are those of `from_servicex`."""
        client = client_of(endpoint)
        check_acceptable(client, plan.selection)
        request_id = submit(
            client,
            plan.selection,
            plan.dataset,
            ignore_cache=plan.options.ignore_cache,
            skips=plan.options.failure_policy.skips,
        )
        return cls._from_submitted(plan, client, request_id)

    @classmethod
    def from_request_id(
        cls,
        request_id: str,
        dataset: Any = None,
        *,
        input_form: Any = None,
        form: Any = None,
        mode: str = "dask",
        entry_start: int | None = None,
        entry_stop: int | None = None,
        preload: Any = None,
        access_log: list[Any] | None = None,
        buffer_cache: Any = None,
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
        progress: ProgressDisplay | None = None,
    ) -> ServiceXEventsFactory:
        """Define the events of a transform that was submitted before, here or elsewhere.

        Parameters
        ----------
        request_id : str
            A UUID, as shown by ``servicex transforms list`` and `request_id`.
        dataset : sequence of str, optional
            All input files, in the order of the partitions; by default in the order in which they
            were submitted, or were found.
        codegen : str, optional
            Code generator of the query, if the server does not name it clearly.
        input_form, form, mode, entry_start, entry_stop, preload, access_log, buffer_cache, \
schemaclass, metadata, backend, url, config_path, on_failure, max_failed, steps_per_file, pace, \
progress
            As for `from_servicex`.

        Returns
        -------
        ServiceXEventsFactory
            With the same partitions as that of `from_servicex`; a server of 2024 does not report
            the order in which files were submitted, so they are sorted by name.

        Raises
        ------
        TransformGone
            If the server does not have the request, or no longer.
        BadInput, ServerError, BadDataset, EmptyDataset
            As for `from_servicex`.

        Notes
        -----
        Requests to ServiceX: two for the query, two for the number of input files, which are
        repeated while a dataset is looked up, and one for the status. If the transform has ended,
        those that list its results, so that the numbers of events are known.
        """
        options = Options.of(locals())
        request_id = _checked_id(request_id)
        listed = None if dataset is None else identify(dataset).files
        client = client_of(options.endpoint())
        selection = selection_of(client, request_id, codegen)
        files = _look_up(client, request_id, options, request_id, listed)
        plan = plan_selection(selection, Dataset(None, files), options)
        factory = cls._from_submitted(plan, client, request_id)
        complete_if_over(factory._source)
        return factory

    @classmethod
    def _from_submitted(
        cls, plan: Plan, client: ServiceXClient, request_id: str
    ) -> ServiceXEventsFactory:
        """Define the events of a submitted transform, as soon as its input files are available."""
        options = plan.options
        if not client.info().lists_results:
            warn(
                f"ServiceX at {client.endpoint.url} is of a generation that lists its results only "
                "when a transform is over: nothing can be read before that."
            )
        files = plan.dataset.files or _look_up(client, request_id, options, plan.name)
        failure_policy = options.failure_policy.among(len(files))
        handle = make_handle(
            client, request_id, files, plan.selection, failure_policy, options.pace
        )
        output_form, form_mapping = plan.output_form, plan.form_mapping
        if output_form is None:
            first = poller_of(handle).wait_for_any()
            output_form = form_of_delivered(request_id, first, plan.selection.result_format)
            form_mapping = events_mapping(output_form, options)
        source = EventSource(
            plan.selection,
            files,
            Routing((handle,)),
            output_form,
            options.steps_per_file,
            options.read_options,
        )
        factory: ServiceXEventsFactory = cls._of(form_mapping, source)
        if options.progress is not None:
            options.progress.show(plan.name, factory)
        return factory

    def retry_failed(self, report: Any = None) -> ServiceXEventsFactory:
        """Submit the input files that failed again; define the events with their new results.

        Partitions keep their numbers: files that were delivered are read from the first transform,
        the others from the new one.

        Parameters
        ----------
        report : ak.Array or Report, optional
            The computed report of events with ``on_failure="skip"``. By default the report of this
            process: files that were not transformed, or that could not be read when they were read
            last.

        Returns
        -------
        ServiceXEventsFactory
            This one, if nothing has failed.

        Raises
        ------
        BadInput
            If a transform has stalled, or has passed its deadline, and still runs at the server:
            `cancel` ends it, and then all files are submitted again that it has not delivered. If
            the server does not name the files that failed: one of 2024 that looked them up.
        TransformGone
            If the server no longer has a transform that has not delivered all of its files.
        ServerError, RequestRefused
            If they cannot be submitted.

        Notes
        -----
        Files of a transform that still runs stay with it; ``max_failed`` then holds for the files
        of each transform.
        One request to submit, and one for the capabilities of the server. For a transform with
        files without an outcome, one for its status, and if it has ended, those that list its
        results.
        """
        if not isinstance(report, Report):
            complete_outcomes(self._source)
            report = self.report(report)
        source = retry_failed(self._source, report)
        return self if source is self._source else self._of(self._form_mapping, source)

    def status(self) -> TransformStatus:
        """Request the status of the transform. One request.

        Raises
        ------
        TransformGone
            If the server no longer has it.
        ProtocolError
            If the response has no status, or no number of files.
        ServerError
        """
        return self._source.poller.client.status(self.request_id)

    def cancel(self) -> None:
        """Cancel the transform. Files that were delivered stay readable. Two requests.

        Raises
        ------
        RequestRefused
            If it has ended already.
        ServerError, TransformGone
        """
        self._source.poller.client.cancel(self.request_id)


def _checked_id(request_id: Any) -> str:
    """Return the id of a request as ServiceX writes it.

    Raises
    ------
    BadInput
    """
    name = request_id.strip().lower() if isinstance(request_id, str) else ""
    if _REQUEST_ID.fullmatch(name):
        return name
    # Servers find a request by its number too, but not its results.
    number = " A number is that of a row in its database." if name.isdigit() else ""
    raise BadInput(
        f"request_id={request_id!r} is not the id of a request.{number} Ids look like "
        "'d8574447-e5e2-40ff-a0c4-bde618f1483f': `servicex transforms list` shows them, and "
        "factory.request_id."
    )


def _look_up(
    client: ServiceXClient,
    request_id: str,
    options: Options,
    name: str,
    listed: InputFiles | None = None,
) -> InputFiles:
    """Wait until the server has found all input files of a transform."""
    progress = options.progress
    on_progress = None if progress is None else partial(progress.look_up, name)
    return files_of(client, request_id, options.pace or PollPolicy(), on_progress, listed)
