"""coffea NanoEvents for data that ServiceX has not produced yet.

Importing this package adds `NanoEventsFactory.from_servicex`.
"""

import logging

from . import errors
from ._version import version as __version__
from .factory import ServiceXEventsFactory
from .factory import install as _install
from .forms import DeliveredForm, derive_form
from .redact import RedactingHandler as _RedactingHandler
from .report import Report
from .samples import from_spec
from .transform.course import Pace

__all__ = [
    "DeliveredForm",
    "Pace",
    "Report",
    "ServiceXEventsFactory",
    "__version__",
    "derive_form",
    "errors",
    "from_spec",
]

logging.getLogger(__name__).addHandler(_RedactingHandler())
_install()
