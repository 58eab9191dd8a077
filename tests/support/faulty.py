"""An analysis behind a proxy, for the tests of faults."""

from __future__ import annotations

import io
import json
import logging
import pickle
import re
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import awkward as ak
import dask
import pytest
import uproot
from coffea.nanoevents import BaseSchema, NanoEventsFactory
from servicex import query as sx_query

from coffea_sx.errors import ServiceXError
from coffea_sx.forms import OutputForm, derive_form
from coffea_sx.graph import load
from coffea_sx.local import LocalServiceX
from coffea_sx.policy import DEFAULT_CLIENT, ClientPolicy, PollPolicy
from coffea_sx.servicex.client import ServiceXClient, client_of
from coffea_sx.servicex.config import EndpointName, find_endpoint
from coffea_sx.storage.policy import ReadPolicy
from coffea_sx.storage.stored import stored_object
from coffea_sx.testing import Answer, FaultProxy, Request, When
from coffea_sx.testing.messages import Ask, whole
from coffea_sx.virtual import parts
from coffea_sx.wire.clock import DEFAULT_LIMITS, Limits
from coffea_sx.work import grants, lengths
from support.leaks import Canaries
from support.paces import FAST, IMPATIENT
from support.runner import run

COLUMNS = ("event", "MET_pt", "Muon_pt")
# The second of three input files is the one with the fault.
VICTIM = 1
BUCKET = r"^/[0-9a-f-]{36}/"


def reading(path: str) -> Callable[[Request], bool]:
    """Match requests for objects, but not those that only check that an object exists."""
    asks = When(path, method="GET")
    return lambda request: asks(request) and request.range != "bytes=0-0"


OBJECTS = reading(BUCKET)
OF_VICTIM = reading(f"{BUCKET}.*nano_{VICTIM}")
ASKING = When("^/servicex", method="GET")
RESULTS = When("/results$")


# Faults that last end soon.
HASTY = replace(IMPATIENT, stall_s=10.0, outage_s=0.2)

Kind = type[ServiceXError] | tuple[type[ServiceXError], ...]


def query() -> Any:
    return (
        sx_query.FuncADL_Uproot()
        .FromTree("Events")
        .Select(lambda e: {"event": e["event"], "MET_pt": e["MET_pt"], "Muon_pt": e["Muon_pt"]})
    )


@lru_cache
def form_of(path: str, result_format: str) -> OutputForm:
    """Derive the form of the results, once for all tests."""
    return derive_form(query(), {path: "Events"}, result_format=result_format)


@lru_cache
def truth(files: tuple[str, ...]) -> dict[str, Any]:
    """Read the columns of the input files themselves."""
    parts = []
    for path in files:
        with uproot.open({path: "Events"}) as tree:
            parts.append(tree.arrays(COLUMNS))
    joined = ak.concatenate(parts)
    return {name: joined[name] for name in COLUMNS}


class Analysis:
    """An analysis of three files, its right result, and the secrets that it must not show.

    Parameters
    ----------
    server : LocalServiceX
        With tokens.
    url : str
        Address of the server for clients.
    files : list of str
    directory : Path
        For its servicex.yaml.
    canaries : Canaries
    pace : PollPolicy
    """

    def __init__(
        self,
        server: LocalServiceX,
        url: str,
        files: list[str],
        directory: Path,
        canaries: Canaries,
        pace: PollPolicy = FAST,
    ) -> None:
        self.files = files
        self.pace = pace
        self.truth = truth(tuple(files))
        self.canaries = canaries
        self._config = directory / "servicex.yaml"
        text = server.servicex_yaml().replace(server.url, url)
        self._config.write_text(f"{text}cache_path: {directory / 'cache'}\n")
        self.pace: PollPolicy | None = None
        self._client: ServiceXClient | None = None

    def connect(
        self, policy: ClientPolicy = DEFAULT_CLIENT, limits: Limits = DEFAULT_LIMITS
    ) -> None:
        """Make the client of this process for the server, with other limits."""
        self._client = None
        endpoint = find_endpoint(EndpointName(None, None, str(self._config)))
        self._client = client_of(endpoint, policy, limits)

    def hurry(self) -> None:
        """Wait for ServiceX only a moment: faults that last end in a second."""
        # Submitting takes its time.
        self.connect(ClientPolicy(patience_s=0.5), Limits(total_s=1.0))
        self.pace = PollPolicy(busy_s=0.02, idle_s=0.1, stall_s=10.0, settle_s=0.3, outage_s=0.2)

    def factory(self, **options: Any) -> Any:
        return NanoEventsFactory.from_servicex(
            query(),
            self.files,
            form=form_of(self.files[0], options.get("result_format", "root-file")),
            config_path=self._config,
            schemaclass=BaseSchema,
            **{"pace": self.pace, **options},
        )

    def compute(self, way: str = "synchronous", **options: Any) -> dict[str, Any]:
        """Return the columns: with a scheduler of dask, in virtual mode, or by coffea's Runner."""
        if way == "virtual":
            events = self.factory(mode="virtual", **options).events()
            return {name: ak.materialize(events[name]) for name in COLUMNS}
        if way == "runner":
            return run_columns(self.factory(**options))
        events = self.factory(**options).events()
        found = dask.compute(*(events[name] for name in COLUMNS), scheduler=way)
        return dict(zip(COLUMNS, found, strict=True))

    def assert_right(self, way: str = "synchronous", **options: Any) -> None:
        """The values are those of the input files; no secret is shown on the way."""
        self._assert_equal(self.compute(way, **options), self.truth)
        self.assert_silent()

    def assert_raises(
        self,
        kind: Kind,
        says: str,
        way: str = "synchronous",
        **options: Any,
    ) -> Any:
        """It ends with an error that can be pickled and holds no secret."""
        # coffea's Runner raises its own error, caused by ours.
        with pytest.raises(Exception if way == "runner" else kind, match=says) as caught:
            self.compute(way, **options)
        self.assert_silent(everything_in(caught.value))
        error = next(e for e in _chain(caught.value, set()) if isinstance(e, ServiceXError))
        assert type(error) in _kinds(kind)
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy), copy.facts) == (type(error), str(error), error.facts)
        self.assert_silent(everything_in(error))
        return error

    def assert_raises_for_victim(
        self, kind: Kind, says: str, way: str = "synchronous", **options: Any
    ) -> Any:
        """The error names the input file too."""
        error = self.assert_raises(kind, says, way, **options)
        assert error.input_file == self.files[VICTIM]
        assert error.input_file in str(error)
        assert error.object_name
        return error

    def assert_skips_victim(
        self, kind: Kind, says: str, scheduler: str = "synchronous", **options: Any
    ) -> None:
        """The victim is a row of the report, and the other partitions are right."""
        events, report = self.factory(on_failure="skip", **options).events()
        *found, rows = dask.compute(
            *(events[name] for name in COLUMNS), report, scheduler=scheduler
        )
        others = tuple(path for i, path in enumerate(self.files) if i != VICTIM)
        self._assert_equal(dict(zip(COLUMNS, found, strict=True)), truth(others))
        (failed,) = rows[~ak.is_none(rows.exception)].to_list()
        assert (failed["partition"], failed["input_file"]) == (VICTIM, self.files[VICTIM])
        assert failed["failed_at"] == "read"
        assert failed["exception"] in [error.__name__ for error in _kinds(kind)]
        assert re.search(says, failed["message"])
        assert rows.n_events.to_list() == [500, 0, 500]
        self.assert_silent(str(rows.to_list()))

    def assert_runner_skips_victim(self, kind: Kind, **options: Any) -> None:
        """The victim is left out of coffea's Runner, and the report has the reason."""
        factory = self.factory(on_failure="skip", **options)
        others = tuple(path for i, path in enumerate(self.files) if i != VICTIM)
        self._assert_equal(run_columns(factory), truth(others))
        (failed,) = [file for file in factory.report().inputs if file.status == "failed"]
        assert failed.input_file == self.files[VICTIM]
        assert any(error.__name__ in str(failed) for error in _kinds(kind))
        self.assert_silent(str(failed))

    def expect_no_token(self) -> None:
        """Search for secrets even if no access token is issued."""
        self.canaries.secrets.add("no access token")

    def assert_silent(self, what: str = "") -> None:
        """Neither the text nor any log has a secret."""
        self.canaries.assert_absent("what was raised or reported", what)
        self.canaries.assert_absent("our log", self.canaries.log.getvalue())

    def _assert_equal(self, found: dict[str, Any], expected: dict[str, Any]) -> None:
        for name in COLUMNS:
            assert ak.array_equal(ak.without_parameters(found[name]), expected[name]), name


def columns_of(events: Any) -> dict[int, dict[str, Any]]:
    """Processor of coffea: the columns of each partition."""
    columns = {name: ak.materialize(events[name]) for name in COLUMNS}
    return {events.metadata["partition"]: columns}


def run_columns(factory: Any) -> dict[str, Any]:
    """Return the columns that coffea's Runner gets of all files."""
    with ThreadPoolExecutor(2) as threads:
        found = run(factory, threads, columns_of, futures={"retries": 0})["out"]
    return {name: ak.concatenate([found[i][name] for i in sorted(found)]) for name in COLUMNS}


def _kinds(kind: Kind) -> tuple[type[ServiceXError], ...]:
    return kind if isinstance(kind, tuple) else (kind,)


def everything_in(error: BaseException) -> str:
    """Return all that may be printed or sent of an error, its causes and its contexts."""
    return "\n".join(
        [
            *traceback.format_exception(error),
            *(f"{link!r} {link} {vars(link)}" for link in _chain(error, set())),
            pickle.dumps(error).decode("latin-1"),
        ]
    )


def _chain(error: BaseException | None, seen: set[int]) -> Iterator[BaseException]:
    if error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        yield from _chain(error.__cause__, seen)
        yield from _chain(error.__context__, seen)


@dataclass(frozen=True)
class Rewrite:
    """An action: change the JSON of an answer."""

    change: Callable[[Any], Any]

    async def __call__(self, request: Request, ask: Ask) -> Answer:
        answer = await ask()
        content = b"".join([block async for block in answer.body])
        if answer.status == 200:
            content = json.dumps(self.change(json.loads(content))).encode()
        return whole(answer.status, {"Content-Type": "application/json"}, content)


def of_rows(**facts: Any) -> Rewrite:
    """Change all rows of results."""
    changed = {name.replace("_", "-"): fact for name, fact in facts.items()}
    return Rewrite(lambda answer: {"results": [{**row, **changed} for row in answer["results"]]})


def requests_for(proxy: FaultProxy, when: Callable[[Request], bool]) -> list[Request]:
    return [request for request in proxy.requests if when(request)]


IMPATIENT_READS = ReadPolicy(
    limits=Limits(0.2, bytes_per_s=1e9), retry_s=0.5, missing_pauses_s=(0.01, 0.02)
)


def read_with(patch: pytest.MonkeyPatch, policy: ReadPolicy) -> None:
    """Read delivered files with another policy, in every mode."""
    for module in (load, parts, lengths, grants):
        patch.setattr(module, "stored_object", partial(stored_object, policy=policy))


def make_impatient(patch: pytest.MonkeyPatch) -> None:
    """Wait for the store only a moment: faults that last end in a second."""
    read_with(patch, IMPATIENT_READS)


# -- in the processes of workers

_log_of_worker = io.StringIO()


def prepare_worker() -> None:
    """Shorten the limits of a worker, and keep all that it logs at DEBUG."""
    make_impatient(pytest.MonkeyPatch())
    root = logging.getLogger()
    root.addHandler(logging.StreamHandler(_log_of_worker))
    root.setLevel(logging.DEBUG)


def log_of_worker() -> str:
    return _log_of_worker.getvalue()
