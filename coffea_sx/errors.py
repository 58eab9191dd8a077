"""Everything that can go wrong, as one tree.

::

    ServiceXError
    ├── BadInput (ValueError)            found before anything is submitted
    │   ├── QueryError                   the query cannot be sent or translated
    │   │   └── UnknownColumn            it asks for a column that the input does not have
    │   ├── DatasetError                 the list of input files has no unambiguous order
    │   ├── FormError                    no form can be made of input_form= or form=
    │   └── ConfigurationError           which ServiceX is meant cannot be told
    ├── ServerError                      the conversation with ServiceX
    │   ├── Unreachable (ConnectionError)
    │   │   └── OutcomeUnknown           it may have done what it was asked for
    │   ├── NotAuthorized (PermissionError)
    │   ├── RequestRefused               the server answered with an error
    │   └── ProtocolError                the server answered what no ServiceX answers
    ├── TransformError                   the transform as a whole
    │   ├── TransformFailed              input files could not be transformed
    │   ├── TransformCanceled
    │   ├── TransformFatal
    │   ├── TransformGone                the server no longer knows it
    │   ├── BadDataset                   the dataset could not be looked up
    │   ├── EmptyDataset                 the dataset has no files
    │   ├── CountMismatch                it ended, and results are missing
    │   ├── TransformStalled             nothing happened for too long
    │   ├── DeadlineExceeded             it takes longer than it may
    │   └── OwnerLost                    the process that watches it is gone
    └── ReadError (OSError)              one delivered file
        ├── AccessError                  no URL, or the store refuses it
        ├── ObjectGone                   the store does not have it
        ├── ObjectReplaced               it changed while it was read
        ├── Truncated                    fewer bytes than promised
        ├── CorruptFile                  not a file of the promised format
        └── FormMismatch                 other columns or types than promised

Every error can be pickled, and none holds a token, a key or a signature.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from .redact import redact, redact_all

_CONTEXT: Any = BaseException.__dict__["__context__"]


class ServiceXError(Exception):
    """The root of all errors of coffea_sx.

    Parameters
    ----------
    message : str
        What happened, where, and what to do. URLs and secrets in it are redacted.
    **facts
        The same as plain values, also attributes of the error.
    """

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(redact(message))
        self.facts: dict[str, Any] = redact_all(facts)

    # Where dask is, errors are pickled with their contexts, even those that `from None` hides; the
    # errors of libraries that ours stand for hold URLs, and things that cannot be pickled.
    @property
    def __context__(self) -> BaseException | None:
        hidden = self.__suppress_context__ and self.__cause__ is None
        return None if hidden else _CONTEXT.__get__(self)

    @__context__.setter
    def __context__(self, context: BaseException | None) -> None:
        _CONTEXT.__set__(self, context)

    def __getattr__(self, name: str) -> Any:
        facts = self.__dict__.get("facts", {})
        if name in facts:
            return facts[name]
        raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), **self.facts), (str(self),)


class BadInput(ServiceXError, ValueError):
    """Something the user gave cannot work; nothing was submitted."""


class QueryError(BadInput):
    """The query cannot be sent to ServiceX or translated."""


class UnknownColumn(QueryError):
    """The query asks for a column that the input does not have.

    Attributes
    ----------
    column : str
    nearest : list of str
        Existing columns with similar names, best first.
    """


class DatasetError(BadInput):
    """The input files cannot be told apart, or there are none."""


class FormError(BadInput):
    """No form can be made of what was given as ``input_form`` or ``form``."""


class ConfigurationError(BadInput):
    """Which ServiceX to use cannot be told."""


class ServerError(ServiceXError):
    """The conversation with the ServiceX server failed."""


class Unreachable(ServerError, ConnectionError):
    """The server does not answer."""


class OutcomeUnknown(Unreachable):
    """The server got a submission, and did not say whether it took it."""


class NotAuthorized(ServerError, PermissionError):
    """The server wants a token, or does not accept the one it was given."""


class RequestRefused(ServerError):
    """The server answered a request with an error.

    Attributes
    ----------
    status : int
        The HTTP status code.
    """


class ProtocolError(ServerError):
    """The server answered what no ServiceX answers."""


class TransformError(ServiceXError):
    """A transform ended without all of its results.

    Attributes
    ----------
    request_id : str
    """


class TransformFailed(TransformError):
    """Input files could not be transformed.

    Attributes
    ----------
    request_id : str
    input_file : str
        The first of them.
    input_files : list of str
        All that have failed so far.
    reason : str or None
        What the server said.
    log_url : str or None
        Where the server keeps its logs.
    """


class TransformCanceled(TransformError):
    """The transform was canceled."""


class TransformFatal(TransformError):
    """The server gave the transform up."""


class TransformGone(TransformError):
    """The server no longer knows the transform."""


class BadDataset(TransformError):
    """The dataset could not be looked up."""


class EmptyDataset(TransformError):
    """The dataset has no files."""


class CountMismatch(TransformError):
    """The transform ended, and the server lists fewer results than input files."""


class TransformStalled(TransformError):
    """No file was finished for longer than the time limit."""


class DeadlineExceeded(TransformError):
    """The transform is not over when it should be."""


class OwnerLost(TransformError):
    """The process that watches the transform went away while workers waited for it."""


class ReadError(ServiceXError, OSError):
    """A delivered file could not be read.

    Attributes
    ----------
    input_file : str
    object_name : str
    """

    # OSError's own __str__ looks at errno and strerror, which are not ours.
    __str__ = Exception.__str__

    def about(self, input_file: str, object_name: str) -> ReadError:
        """Return the same error, which also says what the object was made of."""
        facts = {**self.facts, "input_file": input_file, "object_name": object_name}
        named = "" if input_file in str(self) else f" The object was made of {input_file}."
        return type(self)(str(self) + named, **facts)


class AccessError(ReadError):
    """No URL could be had for the object, or the store refused it."""


class ObjectGone(ReadError):
    """The store does not have the object."""


class ObjectReplaced(ReadError):
    """The object became another one while it was read."""


class Truncated(ReadError):
    """The store sent fewer bytes than it had promised."""


class CorruptFile(ReadError):
    """The object is not a file of the promised format."""


class FormMismatch(ReadError):
    """The file has other columns or types than its form promised.

    Attributes
    ----------
    input_file, object_name, column, expected, found : str
    """


class MisdirectedIndices(UserWarning):
    """Columns point into a collection that the query filters or sorts: to other entries."""
