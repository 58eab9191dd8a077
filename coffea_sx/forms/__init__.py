"""Forms: of the input, of the files that a query delivers, and of the events made of them."""

from .derivation import derive_form
from .output_form import OutputForm

__all__ = ["OutputForm", "derive_form"]
