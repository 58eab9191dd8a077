"""Errors of coffea_sx, as one tree.

::

    ServiceXError
    ├── BadInput (ValueError)            found before anything is submitted
    │   ├── QueryError                   the query cannot be sent or translated
    │   │   └── UnknownColumn            it reads a column that the input does not have
    │   ├── DatasetError                 the list of input files has no unambiguous order
    │   ├── FormError                    no form can be made of input_form= or form=
    │   └── ConfigurationError           no valid endpoint of ServiceX is configured
    ├── ServerError                      requests to ServiceX
    │   ├── Unreachable (ConnectionError)
    │   │   └── OutcomeUnknown           the server may have accepted the submission
    │   ├── NotAuthorized (PermissionError)
    │   ├── RequestRefused               the response is an error
    │   └── ProtocolError                the response is not one of ServiceX
    ├── TransformError                   the transform as a whole
    │   ├── TransformFailed              input files could not be transformed
    │   ├── TransformCanceled
    │   ├── TransformFatal
    │   ├── TransformGone                the server no longer has it
    │   ├── BadDataset                   the dataset could not be looked up
    │   ├── EmptyDataset                 the dataset has no files
    │   ├── CountMismatch                it ended with results missing
    │   ├── TransformStalled             no progress for too long
    │   ├── DeadlineExceeded             it exceeded its time limit
    │   └── OwnerLost                    the process that polls it ended
    └── ReadError (OSError)              one delivered file
        ├── AccessError                  no URL, or the store refused it
        ├── ObjectGone                   the store does not have the object
        ├── ObjectReplaced               it changed while it was read
        ├── Truncated                    fewer bytes than announced
        ├── CorruptFile                  not a file of the expected format
        ├── FormMismatch                 other columns or types than expected
        └── LengthMismatch               another number of events than reported

Every error can be pickled, and none holds a token, a key or a signature.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from .redact import redact, redact_all

_CONTEXT: Any = BaseException.__dict__["__context__"]


class ServiceXError(Exception):
    """Base of all errors of coffea_sx.

    Parameters
    ----------
    message : str
        What failed, where, and what to do next. URLs and secrets in it are redacted.
    **facts
        The same facts as plain values, which are attributes of the error.
    """

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(redact(message))
        self.facts: dict[str, Any] = redact_all(facts)

    # dask pickles errors with their contexts, even those that `from None` hides. Contexts are
    # errors of other libraries: they hold URLs, and objects that cannot be pickled.
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
    """An argument cannot work; nothing was submitted."""


class QueryError(BadInput):
    """The query cannot be sent to ServiceX or translated."""


class UnknownColumn(QueryError):
    """The query reads a column that the input does not have.

    Attributes
    ----------
    column : str
    nearest : list of str
        Existing columns with similar names, best first.
    """


class DatasetError(BadInput):
    """The input files have ambiguous names, or there are none."""


class FormError(BadInput):
    """No form can be made of ``input_form`` or ``form``."""


class ConfigurationError(BadInput):
    """No valid endpoint of ServiceX is configured."""


class ServerError(ServiceXError):
    """A request to the ServiceX server failed."""


class Unreachable(ServerError, ConnectionError):
    """The server does not respond."""


class OutcomeUnknown(Unreachable):
    """The server received a submission, and did not confirm it."""


class NotAuthorized(ServerError, PermissionError):
    """The server needs a token, or does not accept the token of this user."""


class RequestRefused(ServerError):
    """The server responded with an error.

    Attributes
    ----------
    status : int
        The HTTP status code.
    """


class ProtocolError(ServerError):
    """The response of the server is not one of ServiceX."""


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
        First of the files that failed.
    input_files : list of str
        All files that have failed so far.
    reason : str or None
        Explanation of the server.
    log_url : str or None
        Logs of the transform, if the server gives their URL.
    """


class TransformCanceled(TransformError):
    """The transform was canceled."""


class TransformFatal(TransformError):
    """The server ended the transform with a fatal error."""


class TransformGone(TransformError):
    """The server no longer has the transform."""


class BadDataset(TransformError):
    """The dataset could not be looked up."""


class EmptyDataset(TransformError):
    """The dataset has no files."""


class CountMismatch(TransformError):
    """The transform ended, and the server lists fewer results than input files."""


class TransformStalled(TransformError):
    """No file was finished for longer than the time limit."""


class DeadlineExceeded(TransformError):
    """The transform was not over at its deadline."""


class OwnerLost(TransformError):
    """The process that polls the transform ended while workers waited for its outcomes."""


class ReadError(ServiceXError, OSError):
    """A delivered file could not be read.

    Attributes
    ----------
    input_file : str
    object_name : str
    """

    # OSError.__str__ shows errno and strerror, which are not set here.
    __str__ = Exception.__str__

    def about(self, input_file: str, object_name: str) -> ReadError:
        """Return the same error with the input file of the object."""
        facts = {**self.facts, "input_file": input_file, "object_name": object_name}
        named = "" if input_file in str(self) else f" The object was made of {input_file}."
        return type(self)(str(self) + named, **facts)


class AccessError(ReadError):
    """There is no URL for the object, or the store refused it."""


class ObjectGone(ReadError):
    """The store does not have the object."""


class ObjectReplaced(ReadError):
    """The object was replaced while it was read."""


class Truncated(ReadError):
    """The store sent fewer bytes than it announced."""


class CorruptFile(ReadError):
    """The object is not a file of the expected format."""


class FormMismatch(ReadError):
    """The file has other columns or types than its form.

    Attributes
    ----------
    input_file, object_name, column, expected, found : str
    """


class LengthMismatch(ReadError):
    """The file has another number of events than ServiceX reported.

    Attributes
    ----------
    facts : dict
        ``expected``, ``found`` : int, numbers of events.
    """


class MisdirectedIndices(UserWarning):
    """Indices point to wrong entries, because the query filters or sorts their collection."""
