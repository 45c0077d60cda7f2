"""What made a result, in notes that travel with it."""

from __future__ import annotations

import prosma_core
from prosma_core.config.base import Config
from prosma_core.config.header import ModelHeader


def provenance(header: ModelHeader, config: Config, source: str) -> dict[str, str]:
    """Program, model and its hash, settings that differ from the defaults, and the source's name."""
    return {
        "program": f"prosma {prosma_core.__version__}",
        "model": header.name,
        "model_sha256": header.sha256,
        "settings": config.model_dump_json(exclude_defaults=True),
        "source": source,
    }
