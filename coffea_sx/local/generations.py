"""Generations of servers: the capabilities of those of 2026, 2025 and 1.5."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigurationError
from ..query import RESULT_FORMATS

# Names of capabilities. With the first one came datasets and the deletion of requests.
RESULTS = "poll_local_transformation_results"
LONG_TITLES = "long_sample_titles_10240"
POST_CANCEL = "post_cancel_transform"
FILE_URLS = "generate_file_urls"
REASONS = "transformation_errors"


@dataclass(frozen=True)
class Generation:
    """Capabilities of the servers of a generation.

    Attributes
    ----------
    capabilities : tuple of str
        Names in the information of the server; without any there is no list. Routes depend on
        them.
    result_formats : tuple of str
        Formats of results.
    has_bad_datasets : bool
        True if a dataset that does not exist differs from an empty one.
    times_empty_requests : bool
        True if a request without files has a finish time.
    """

    capabilities: tuple[str, ...]
    result_formats: tuple[str, ...] = RESULT_FORMATS
    has_bad_datasets: bool = True
    times_empty_requests: bool = True


GENERATIONS = {
    "2026": Generation((RESULTS, LONG_TITLES, POST_CANCEL, FILE_URLS, REASONS)),
    "2025": Generation((RESULTS, LONG_TITLES)),
    "1.5": Generation(
        capabilities=(),
        result_formats=("root-file", "parquet"),
        has_bad_datasets=False,
        times_empty_requests=False,
    ),
}
DEFAULT = "2026"
DEFAULT_WITH_STORE = "2025"


def find_generation(name: str) -> Generation:
    """Return a generation by its name.

    Raises
    ------
    ConfigurationError
        If there is no such generation.

    Examples
    --------
    >>> find_generation("2025").capabilities
    ('poll_local_transformation_results', 'long_sample_titles_10240')
    """
    if name not in GENERATIONS:
        raise ConfigurationError(
            f"generation={name!r}: take one of {', '.join(map(repr, GENERATIONS))}"
        )
    return GENERATIONS[name]
