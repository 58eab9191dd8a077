"""coffea's Runner on samples of the demo."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from typing import Any

import awkward as ak
from coffea.processor import FuturesExecutor, Runner

from coffea_sx.demo.analysis import DimuonProcessor

FORMATS = ("root-file", "root-rntuple", "parquet")
Submit = Callable[..., Any]


def run(
    factory: Any,
    executor: Executor,
    processor: Any = None,
    items: Any = None,
    in_flight: int | None = None,
    **options: Any,
) -> Any:
    """Run a processor on all files, begun before they exist."""
    is_parquet = factory._source.output_form.result_format == "parquet"
    runner = Runner(
        FuturesExecutor(
            pool=factory.pool(executor, in_flight), status=False, **options.pop("futures", {})
        ),
        schema=factory.schema,
        format="parquet" if is_parquet else "root",
        **options,
    )
    return runner.run(items or factory.work_items(), processor or DimuonProcessor())


def numbers_of(events: Any) -> dict[str, Any]:
    """A processor that is a function: which events there are, and where they are from."""
    about = events.metadata
    where = (about["dataset"], about["partition"], about["entrystart"], about["entrystop"])
    return {"events": set(ak.to_list(events.event)), "where": {where}}


def causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
