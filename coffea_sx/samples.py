"""Several samples, submitted together: one factory for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from coffea.nanoevents import NanoAODSchema

from ._upstream.servicex import load_specification
from .errors import BadInput, ServiceXError
from .event_source import EventSource
from .factory import ServiceXEventsFactory
from .options import Options, ProgressDisplay
from .plan import Plan, make_plan
from .policy import PollPolicy
from .processing import Processing
from .servicex.client import client_of
from .servicex.config import Endpoint
from .servicex.submit import check_acceptable
from .virtual.iteration import Completed

# Maximum number of samples that are submitted and looked up at the same time.
N_THREADS = 16


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample of a specification.

    Attributes
    ----------
    name : str
    query, dataset : object
        As `from_servicex` takes them.
    result_format : str
    codegen : str or None
    ignore_cache : bool
    metadata : dict
    """

    name: str
    query: Any
    dataset: Any
    result_format: str
    codegen: str | None
    ignore_cache: bool
    metadata: dict[str, Any]


class Samples(Processing, dict[str, ServiceXEventsFactory]):
    """Factories of several samples by name, which can be processed together."""

    def _samples(self) -> list[tuple[EventSource, Any]]:
        return [sample for factory in self.values() for sample in factory._samples()]


def as_completed(
    samples: Mapping[str, ServiceXEventsFactory],
    mode: str = "virtual",
    with_failures: bool = False,
) -> Completed:
    """Iterate over the events of each partition of several samples as their files arrive.

    Parameters
    ----------
    samples : mapping of str to ServiceXEventsFactory
        From `from_spec`, or a dict of factories.
    mode : {"virtual", "eager"}
    with_failures : bool
        With ``on_failure="skip"``: yield the errors of files that failed, too.

    Returns
    -------
    Completed
        As from `ServiceXEventsFactory.as_completed`, which has its errors and requests.

    Raises
    ------
    BadInput
        If ``mode`` is another one.
    """
    return Samples(samples).as_completed(mode, with_failures)


def from_spec(
    spec: Any,
    query: Any = None,
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
    backend: str | None = None,
    url: str | None = None,
    config_path: str | Path | None = None,
    on_failure: str = "raise",
    max_failed: int | float | None = None,
    steps_per_file: int = 1,
    ignore_cache: bool = False,
    pace: PollPolicy | None = None,
    progress: ProgressDisplay | None = None,
) -> Samples:
    """Submit all samples of a specification, and define the events of each.

    Parameters
    ----------
    spec : ServiceXSpec, mapping, path or DataGroupSpec
        A specification as for ``servicex.deliver``: an object, a dict or the path of a YAML file;
        or a dataset group of coffea, also as a dict (``group.model_dump()``, JSON), with one query
        for all of it. Files with steps have as many partitions, of equal size; steps must be
        complete, and of equal number.
    query : servicex query or str, optional
        For samples without a query.
    metadata : dict, optional
        Becomes part of ``events.metadata``, beside ``dataset``, the name of the sample, and the
        metadata of a dataset of coffea.
    result_format : str
        For a dataset group; other specifications have their own.
    input_form, form, mode, entry_start, entry_stop, preload, access_log, buffer_cache, \
schemaclass, backend, url, config_path, on_failure, max_failed, steps_per_file, ignore_cache, \
pace, progress
        As for `ServiceXEventsFactory.from_servicex`, for every sample.

    Returns
    -------
    Samples
        A dict of `ServiceXEventsFactory` by the names of the samples, in their order.

    Raises
    ------
    BadInput
        If any sample cannot work; then no sample was submitted.
    ServerError, BadDataset, EmptyDataset
        If ServiceX refuses a sample, or finds no files; the error names the sample. The others go
        on at the server, and are found again by the same call.

    Notes
    -----
    servicex sorts the files of a ``FileList`` in a ``ServiceXSpec`` and in YAML; partitions are in
    that order then. In a dict they keep their order. Options for downloads (``Delivery``,
    ``OutputDirectory``) have no effect.

    Requests to ServiceX: as for `from_servicex`, for every sample.
    """
    options = Options.of(locals())
    samples = _samples(spec, query, result_format)
    plans = {sample.name: _plan(sample, options) for sample in samples}
    endpoint = options.endpoint()
    client = client_of(endpoint)
    for name, plan in plans.items():
        with _errors_of(name):
            check_acceptable(client, plan.selection)
    with ThreadPoolExecutor(N_THREADS, thread_name_prefix="coffea_sx-submit") as pool:
        factories = pool.map(partial(_submit, endpoint), plans, plans.values())
        return Samples(zip(plans, factories, strict=True))


def _plan(sample: Sample, options: Options) -> Plan:
    metadata = {**(options.metadata or {}), **sample.metadata, "dataset": sample.name}
    ignore_cache = options.ignore_cache or sample.ignore_cache
    with _errors_of(sample.name):
        return make_plan(
            sample.query,
            sample.dataset,
            replace(options, metadata=metadata, ignore_cache=ignore_cache),
            result_format=sample.result_format,
            codegen=sample.codegen,
            title=sample.name,
        )


def _submit(endpoint: Endpoint, name: str, plan: Plan) -> ServiceXEventsFactory:
    with _errors_of(name):
        return ServiceXEventsFactory.from_plan(plan, endpoint)


@contextmanager
def _errors_of(name: str) -> Iterator[None]:
    """Name the sample in errors."""
    try:
        yield
    except ServiceXError as error:
        raise type(error)(f"Sample {name!r}: {error}", **error.facts) from error


def _samples(spec: Any, query: Any, result_format: str) -> list[Sample]:
    """Return the samples of a specification.

    Raises
    ------
    BadInput
    """
    if _is_dataset_group(spec):
        samples = list(_coffea_samples(spec, query, result_format))
    else:
        samples = list(_servicex_samples(spec, query))
    if not samples:
        raise BadInput("The specification has no samples.")
    names = [sample.name for sample in samples]
    duplicates = sorted({name for name in names if names.count(name) > 1})
    if duplicates:
        raise BadInput(f"There is more than one sample {', '.join(map(repr, duplicates))}.")
    return samples


def _is_dataset_group(spec: Any) -> bool:
    """Return True for a ``DataGroupSpec``, and for a dict that could be made one."""
    if type(spec).__module__.startswith("coffea."):
        return True
    if not isinstance(spec, Mapping) or not spec or "Sample" in spec:
        return False
    return all(
        "files" in about if isinstance(about, Mapping) else hasattr(about, "files")
        for about in spec.values()
    )


def _coffea_samples(group: Any, query: Any, result_format: str) -> Iterator[Sample]:
    if query is None:
        raise BadInput("A dataset group of coffea brings no query: give it as query=.")
    for name, dataset in dict(group).items():
        about = dataset if isinstance(dataset, Mapping) else vars(dataset)
        files, metadata = about["files"], dict(about.get("metadata") or {})
        # The files of a DatasetSpec are no mapping to Python, but can be made a dict.
        files = dict(files) if type(files).__module__.startswith("coffea.") else files
        yield Sample(name, query, files, result_format, None, False, metadata)


def _servicex_samples(spec: Any, query: Any) -> Iterator[Sample]:
    # servicex sorts lists of files in place.
    originals = [(files, list(files)) for files in _file_lists(spec)]
    try:
        loaded = load_specification(spec)
    except Exception as error:  # of pydantic or YAML, or a missing file
        raise BadInput(
            f"This is no specification that servicex understands: {type(error).__name__}: {error}"
        ) from None
    for files, original in originals:
        files[:] = original
    general = loaded.General
    for sample in loaded.Sample:
        sample_query = query if sample.Query is None else sample.Query
        if sample_query is None:
            raise BadInput(f"Sample {sample.Name!r} has no query: give one as query=.")
        yield Sample(
            sample.Name,
            sample_query,
            _dataset(sample),
            general.OutputFormat.to_ResultFormat().value,
            sample.Codegen or general.Codegen,
            sample.IgnoreLocalCache or general.IgnoreLocalCache,
            {},
        )


def _file_lists(spec: Any) -> Iterator[list[Any]]:
    """Yield the lists of files of the samples in a dict."""
    samples = spec.get("Sample", ()) if isinstance(spec, Mapping) else ()
    for sample in samples:
        dataset = sample.get("Dataset") if isinstance(sample, Mapping) else None
        files = getattr(dataset, "files", None)
        if isinstance(files, list):
            yield files


def _dataset(sample: Any) -> Any:
    """Return the dataset of a sample, limited to its ``NFiles``."""
    dataset = sample.dataset_identifier
    files = getattr(dataset, "files", None)
    return dataset if files is None else list(files)[: sample.NFiles]
