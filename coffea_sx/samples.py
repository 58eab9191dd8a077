"""Many samples at once: one factory for each, all submitted together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from coffea.nanoevents import NanoAODSchema

from .errors import BadInput, ServiceXError
from .factory import ServiceXEventsFactory, ShowsProgress
from .plan import Plan, endpoint_of, expect, make_plan, make_terms
from .policy import PollPolicy
from .servicex.client import client_of
from .servicex.config import Endpoint
from .servicex.submit import check_acceptable

# How many are submitted and looked up at the same time.
AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample of a specification.

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


def from_spec(
    spec: Any,
    query: Any = None,
    *,
    input_form: Any = None,
    form: Any = None,
    mode: str = "dask",
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
    progress: ShowsProgress | None = None,
) -> dict[str, ServiceXEventsFactory]:
    """Submit all samples of a specification, and define the events of each.

    Parameters
    ----------
    spec : ServiceXSpec, mapping, path or DataGroupSpec
        What ``servicex.deliver`` takes: an object, a dict or the path of a YAML file; or a dataset
        group of coffea, with one query for all of it.
    query : servicex query or str, optional
        For samples that bring none.
    metadata : dict, optional
        Becomes part of ``events.metadata``, beside ``dataset``, the name of the sample, and what
        a dataset of coffea brings.
    result_format : str
        For a dataset group; other specifications say it themselves.
    input_form, form, mode, schemaclass, backend, url, config_path, on_failure, max_failed, \
steps_per_file, ignore_cache, pace, progress
        As for `ServiceXEventsFactory.from_servicex`, for every sample.

    Returns
    -------
    dict of str to ServiceXEventsFactory
        By the names of the samples, in their order.

    Raises
    ------
    BadInput
        If any sample cannot work; then none was submitted.
    ServerError, BadDataset, EmptyDataset
        If ServiceX does not take one, or finds no files; the error names it. The others go on at
        the server, and are found again by the same call.

    Notes
    -----
    servicex sorts the files of a ``FileList`` in a ``ServiceXSpec`` and in YAML; partitions are in
    that order then. In a dict they are in the order that was given. What a specification says of
    downloads (``Delivery``, ``OutputDirectory``) does not matter here.

    Requests to ServiceX: as for `from_servicex`, for every sample.
    """
    expect("metadata", metadata, (Mapping, type(None)), "a dict")
    find = partial(endpoint_of, backend, url, config_path)
    plans: list[tuple[Sample, Plan]] = []
    for sample in _samples(spec, query, result_format):
        about = {**(metadata or {}), **sample.metadata, "dataset": sample.name}
        terms = make_terms(mode, schemaclass, about, on_failure, max_failed, steps_per_file, pace)
        make = partial(
            make_plan,
            sample.query,
            sample.dataset,
            terms,
            input_form=input_form,
            form=form,
            result_format=sample.result_format,
            codegen=sample.codegen,
            title=sample.name,
            find=find,
        )
        plans.append((sample, _named(sample.name, make)))
    endpoint = find()
    client = client_of(endpoint)
    for sample, plan in plans:
        _named(sample.name, partial(check_acceptable, client, plan.selection))
    submit = partial(_submit, endpoint, ignore_cache, progress)
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="coffea_sx-submit") as pool:
        factories = list(pool.map(submit, plans))
    return {sample.name: one for (sample, _), one in zip(plans, factories, strict=True)}


def _submit(
    endpoint: Endpoint,
    ignore_cache: bool,
    progress: ShowsProgress | None,
    planned: tuple[Sample, Plan],
) -> ServiceXEventsFactory:
    sample, plan = planned
    submit = partial(
        ServiceXEventsFactory.from_plan,
        plan,
        endpoint,
        ignore_cache=ignore_cache or sample.ignore_cache,
        progress=progress,
    )
    return _named(sample.name, submit)


def _named(name: str, do: Callable[[], Any]) -> Any:
    """Do something for a sample; an error says for which."""
    try:
        return do()
    except ServiceXError as error:
        raise type(error)(f"Sample {name!r}: {error}", **error.facts) from error


def _samples(spec: Any, query: Any, result_format: str) -> list[Sample]:
    """Understand a specification.

    Raises
    ------
    BadInput
    """
    if type(spec).__module__.startswith("coffea."):
        samples = list(_of_coffea(spec, query, result_format))
    else:
        samples = list(_of_servicex(spec, query))
    if not samples:
        raise BadInput("The specification has no samples.")
    names = [sample.name for sample in samples]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BadInput(f"There is more than one sample {', '.join(map(repr, twice))}.")
    return samples


def _of_coffea(group: Any, query: Any, result_format: str) -> Iterator[Sample]:
    if query is None:
        raise BadInput("A dataset group of coffea brings no query: give it as query=.")
    for name, dataset in dict(group).items():
        paths = [str(path) for path in dict(dataset.files)]
        yield Sample(name, query, paths, result_format, None, False, dict(dataset.metadata or {}))


def _of_servicex(spec: Any, query: Any) -> Iterator[Sample]:
    from servicex.servicex_client import _load_ServiceXSpec as load  # also of its own YAML tags

    orders = _orders(spec)
    try:
        loaded = load(spec)
    except Exception as error:  # of pydantic and YAML, and what is not there
        raise BadInput(
            f"This is no specification that servicex understands: {type(error).__name__}: {error}"
        ) from None
    for files, order in orders:
        files[:] = order
    general = loaded.General
    for sample in loaded.Sample:
        own = query if sample.Query is None else sample.Query
        if own is None:
            raise BadInput(f"Sample {sample.Name!r} has no query: give one as query=.")
        yield Sample(
            sample.Name,
            own,
            _dataset(sample),
            general.OutputFormat.to_ResultFormat().value,
            sample.Codegen or general.Codegen,
            sample.IgnoreLocalCache or general.IgnoreLocalCache,
            {},
        )


def _orders(spec: Any) -> list[tuple[list[Any], list[Any]]]:
    """Return the lists of files in a specification, and copies: servicex sorts them in place."""
    samples = spec.get("Sample", ()) if isinstance(spec, Mapping) else ()
    datasets = [one.get("Dataset") for one in samples if isinstance(one, Mapping)]
    lists = [files for one in datasets if isinstance(files := getattr(one, "files", None), list)]
    return [(files, list(files)) for files in lists]


def _dataset(sample: Any) -> Any:
    dataset = sample.dataset_identifier
    files = getattr(dataset, "files", None)
    return dataset if files is None else list(files)[: sample.NFiles]
