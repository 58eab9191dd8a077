"""What a query delivers, known before it is delivered."""

from .output_form import OutputForm, derive_form

__all__ = ["OutputForm", "derive_form"]
