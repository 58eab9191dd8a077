"""coffea NanoEvents for data that ServiceX has not produced yet.

Importing this package adds `NanoEventsFactory.from_servicex`, and imports only coffea's NanoEvents.
The public names, and with them servicex, are imported when they are first used.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from coffea.nanoevents import NanoEventsFactory

from ._version import version as __version__
from .redact import RedactingHandler as _RedactingHandler

if TYPE_CHECKING:
    from . import errors
    from .factory import ServiceXEventsFactory
    from .forms import OutputForm, derive_form
    from .graph.scheduler import threaded_get
    from .policy import PollPolicy
    from .report import Report
    from .samples import as_completed, from_spec

__all__ = [
    "OutputForm",
    "PollPolicy",
    "Report",
    "ServiceXEventsFactory",
    "__version__",
    "as_completed",
    "derive_form",
    "errors",
    "from_spec",
    "threaded_get",
]

# Module of each public name; None for a module.
_MODULES = {
    "OutputForm": "forms",
    "PollPolicy": "policy",
    "Report": "report",
    "ServiceXEventsFactory": "factory",
    "as_completed": "samples",
    "derive_form": "forms",
    "errors": None,
    "from_spec": "samples",
    "threaded_get": "graph.scheduler",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f".{_MODULES[name] or name}", __name__)
    value = globals()[name] = getattr(module, name) if _MODULES[name] else module
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _FromServiceX:
    """Attribute ``from_servicex`` of coffea's factory; imports `ServiceXEventsFactory`."""

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        from .factory import ServiceXEventsFactory

        return ServiceXEventsFactory.from_servicex


def _install() -> None:
    """Add ``from_servicex`` to coffea's NanoEventsFactory. A second call changes nothing."""
    NanoEventsFactory.from_servicex = _FromServiceX()


logging.getLogger(__name__).addHandler(_RedactingHandler())
_install()
