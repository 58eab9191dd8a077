"""Private API of servicex. It is imported when a function is called."""

from __future__ import annotations

from typing import Any


def load_specification(specification: Any) -> Any:
    """Return a specification as a ``servicex.ServiceXSpec``.

    What: ``servicex.servicex_client._load_ServiceXSpec``, which ``servicex.deliver`` calls. It
    takes a ``ServiceXSpec``, a mapping, or the path of a YAML file.
    Why: only this function reads the YAML tags of queries and datasets, such as
    ``!FuncADL_Uproot`` and those of installed plugins.
    Tested with: servicex 3.3.
    Public replacement: a class method ``ServiceXSpec.load``.
    """
    from servicex.servicex_client import _load_ServiceXSpec

    return _load_ServiceXSpec(specification)
