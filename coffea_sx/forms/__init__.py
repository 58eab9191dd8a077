"""What a query delivers, known before it is delivered."""

from .delivered import DeliveredForm, derive_form

__all__ = ["DeliveredForm", "derive_form"]
