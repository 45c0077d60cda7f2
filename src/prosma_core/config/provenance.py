"""What made a result, in notes that travel with it."""

from __future__ import annotations

import prosma_core
from prosma_core.config.base import Config
from prosma_core.config.header import ModelHeader


def provenance(header: ModelHeader, config: Config, source: str, voxel_size: str = "") -> dict[str, str]:
    """Program, model and its hash, settings that differ from the defaults, the source's name, and a given voxel size.

    Parameters
    ----------
    header : ModelHeader
    config : Config
    source : str
    voxel_size : str
        Given by a person for a source that states none, such as ``3,1,1mm``; empty where none was.
    """
    notes = {
        "program": f"prosma {prosma_core.__version__}",
        "model": header.name,
        "model_sha256": header.sha256,
        "settings": config.model_dump_json(exclude_defaults=True),
        "source": source,
    }
    return notes | ({"voxel_size": voxel_size} if voxel_size else {})
