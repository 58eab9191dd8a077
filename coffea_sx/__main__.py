"""Entry point of ``python -m coffea_sx``."""

from .cli import main

raise SystemExit(main())
