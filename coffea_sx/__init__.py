"""coffea NanoEvents for data that ServiceX has not produced yet.

Importing this package adds `NanoEventsFactory.from_servicex`.
"""

import logging

from . import errors
from ._version import version as __version__
from .factory import ServiceXEventsFactory
from .factory import install as _install
from .forms import DeliveredForm, derive_form

__all__ = ["DeliveredForm", "ServiceXEventsFactory", "__version__", "derive_form", "errors"]

logging.getLogger(__name__).addHandler(logging.NullHandler())
_install()
