"""Ways to process the events of one sample or several: as they arrive, and by coffea's Runner."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import Executor
from typing import Any

from coffea.processor.executor import WorkItem

from .errors import BadInput, ReadError, ServiceXError, TransformFailed
from .event_source import EventSource
from .polling.arrivals import arrivals
from .polling.state import Counts
from .virtual.events import check_mode
from .virtual.iteration import Completed
from .work.accumulation import accumulation
from .work.counts import CountsCache
from .work.filesets import dataset_of
from .work.pool import Delivery, DeliveryPool
from .work.schema import ExpectedFiles, delivered_schema, packed


class Processing(ABC):
    """Events of one sample or of several."""

    @abstractmethod
    def _samples(self) -> list[tuple[EventSource, Any]]:
        """Return each sample, and the mapping of its columns to events."""

    # -- as files arrive

    def as_completed(self, mode: str = "virtual", with_failures: bool = False) -> Completed:
        """Iterate over the events of each partition in the order in which files arrive.

        Parameters
        ----------
        mode : {"virtual", "eager"}
        with_failures : bool
            With ``on_failure="skip"``: yield the errors of files that failed, too.

        Returns
        -------
        Completed
            For ``for`` and ``async for``. Elements are NanoEvents (`awkward.Array`), whose metadata
            has ``input_file`` and ``partition``.

        Raises
        ------
        TransformFailed, ReadError
            While iterating: if a file failed, and may not, or too many have.
        TransformError, ServerError
            While iterating: if a transform ended, or a server cannot be reached.
        """
        yielded = self._arriving(check_mode(mode))
        return Completed(e for e in yielded if with_failures or not isinstance(e, ServiceXError))

    def _arriving(self, mode: str) -> Iterator[Any]:
        samples = self._samples()
        awaited = [
            file for number, (source, _) in enumerate(samples) for file in source.awaited(number)
        ]
        for (number, partition), _ in arrivals(awaited):
            source, form_mapping = samples[number]
            try:
                yield source.partition_events(form_mapping, partition, mode)
            except (TransformFailed, ReadError) as error:
                source.allow(partition, error)
                yield error

    def accumulate(
        self, processor: Any, executor: Executor | None = None
    ) -> Iterator[tuple[Any, Counts]]:
        """Iterate over the results of a processor for the files that were delivered so far.

        Parameters
        ----------
        processor : ProcessorABC or callable
            As for coffea's ``Runner``; ``postprocess`` is applied to the last result only.
        executor : concurrent.futures.Executor, optional
            Runs the processor; by default four threads.

        Yields
        ------
        result : object
            The merged results so far, at most once a second; the last is that of ``Runner``.
        counts : Counts
            Numbers of input files: in total, delivered and failed.

        Raises
        ------
        BadInput
            If ``processor`` is none.
        Exception
            While iterating: what the processor raises, and the errors of `as_completed`.

        Notes
        -----
        Leaving the loop cancels what was not begun, and leaves the transform running.
        """
        return accumulation(
            self.work_items(), processor, self.schema, self.pool, executor, self._counts
        )

    def _counts(self) -> Counts:
        counts = [source.counts for source, _ in self._samples()]
        return Counts(
            sum(count.total for count in counts),
            sum(count.delivered for count in counts),
            sum(count.failed for count in counts),
        )

    # -- coffea's Runner

    def work_items(self, chunksize: int | None = None) -> list[WorkItem]:
        """Return work items for ``Runner.run``, in place of a fileset; no file needs to exist yet.

        Parameters
        ----------
        chunksize : int, optional
            Largest number of events of an item. Then this waits until ServiceX has delivered all
            files; without it there is an item for each file, at once. Has no effect where ServiceX
            does not count the delivered events, as for xAOD.

        Returns
        -------
        list of coffea.processor.executor.WorkItem
            Their metadata has ``input_file`` and ``partition``. Run them with `pool`.

        Raises
        ------
        BadInput
            If ``chunksize`` is less than 1.
        TransformError, ServerError
            With ``chunksize``: if a transform ended, or a server cannot be reached.
        """
        if chunksize is not None and chunksize < 1:
            raise BadInput(f"chunksize= must be at least 1, got {chunksize}.")
        return [
            item
            for source, form_mapping in self._samples()
            for item in source.work_items(chunksize, _metadata(form_mapping))
        ]

    def pool(self, executor: Executor, in_flight: int | None = None) -> DeliveryPool:
        """Return an executor that begins each work item when its file is delivered.

        Waiting takes no worker of the other executor. A worker gets the permission to read one
        file, for a short time, and no other credentials.

        Parameters
        ----------
        executor : concurrent.futures.Executor
            Runs the items: ``ThreadPoolExecutor(4)``, ``ProcessPoolExecutor(4)``,
            ``distributed.Client().get_executor()``, ``parsl.concurrent.ParslPoolExecutor`` and
            others. It is not shut down.
        in_flight : int, optional
            Largest number of items that wait in the executor or run; by default twice the number
            of its workers, or 64.

        Returns
        -------
        DeliveryPool
            A ``concurrent.futures.Executor``, for ``coffea.processor.FuturesExecutor(pool=...)``.

        Raises
        ------
        BadInput
            If it is no executor, or if two samples are the same request with its files in
            different orders.
        """
        return DeliveryPool(executor, self._deliveries(), in_flight)

    def _deliveries(self) -> dict[str, Delivery]:
        deliveries: dict[str, Delivery] = {}
        for source, _ in self._samples():
            for request_id, delivery in source.deliveries().items():
                other = deliveries.setdefault(request_id, delivery)
                if other.handle.address != delivery.handle.address:
                    raise BadInput(
                        f"Two samples are the request {request_id} with its input files in "
                        "different orders: run them after each other."
                    )
        return deliveries

    @property
    def metadata_cache(self) -> CountsCache:
        """Numbers of events for ``Runner(metadata_cache=...)``, to preprocess `to_fileset`.

        A look-up waits for the file, and opens it only where ServiceX does not count the delivered
        events. Each access makes a new cache.
        """
        return CountsCache(self._deliveries())

    @property
    def schema(self) -> Any:
        """Schema that makes of a delivered file what `events` shows, for Runner and ``from_root``.

        It raises a FormMismatch for a file of another form than the derived one. A worker of a dask
        cluster that gets it, as from coffea's ``DaskExecutor``, can open the files.
        """
        (original,) = {form_mapping.original_schema for _, form_mapping in self._samples()}
        forms = {
            request_id: expected
            for source, _ in self._samples()
            for expected in [ExpectedFiles(packed(source.output_form), source.counts_events)]
            for request_id in sorted(source.request_ids)
        }
        addresses = dict.fromkeys(
            handle.address for source, _ in self._samples() for handle in source.routing.handles
        )
        return delivered_schema(original, tuple(forms.items()), tuple(addresses))

    def to_fileset(self) -> Any:
        """Return a dataset group of coffea, for ``Runner``, ``apply_to_fileset`` and JSON.

        Returns
        -------
        coffea.dataset_tools.filespec.DataGroupSpec
            Addresses ``servicex://<request>/@<i>.root`` of all files, with numbers of events and
            steps where ServiceX has reported them so far. They can be opened in this process, and
            in those that run the items of a `pool`. No request is made.
        """
        # Only here: it takes as long to import as dask.
        from coffea.dataset_tools.filespec import DataGroupSpec

        return DataGroupSpec(
            {
                items[0].dataset: dataset_of(
                    items, source.n_events(), _metadata(form_mapping), source.output_form.base_form
                )
                for source, form_mapping in self._samples()
                for items in [source.work_items(None, _metadata(form_mapping))]
            }
        )


def _metadata(form_mapping: Any) -> dict[str, Any]:
    """Return the metadata that the user gave."""
    metadata = dict(form_mapping.metadata or {})
    metadata.pop("version", None)
    return metadata
