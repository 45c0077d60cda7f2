"""A person paints while a model is trained: it is learned within an epoch, and nothing is lost whatever happens."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prosma_core.io.images import read_image
from prosma_core.runs.run_folder import RunFolder

pytestmark = pytest.mark.slow


def epoch_of(desk: Any, part: str) -> int:
    """Epoch that a line of the widget names; 0 where it names none."""
    found = re.match(r"Epoch (\d+)", desk.text(part))
    return int(found[1]) if found else 0


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_paint_is_learned_within_an_epoch_and_survives_the_layer_and_the_engine(
    desk: Any, phantoms: list[tuple[Path, Path]]
) -> None:
    image, labels = desk.open(phantoms[0][0]), desk.open_labels(phantoms[0][1])
    desk.add(image, labels)
    desk.short(epochs=500, steps=10)
    run = desk.begin()
    desk.until(lambda: epoch_of(desk, "preview_facts") > 0)
    assert re.fullmatch(r"Epoch \d+, .+, Dice \d\.\d\d on held-out slices\.", desk.text("preview_facts"))
    (preview,) = [layer for layer in desk.viewer.layers if layer.name.endswith("preview")]

    labels.fill((0, 0, 0), 2)  # all background now is of the second class
    desk.until(lambda: epoch_of(desk, "live_facts") > 0)
    learned = epoch_of(desk, "live_facts")
    desk.until(lambda: epoch_of(desk, "preview_facts") >= learned)
    assert epoch_of(desk, "preview_facts") <= learned + 1
    desk.until(lambda: (np.asarray(preview.data) == 2).mean() > 0.5)

    labels.undo()
    labels.name = "renamed"
    labels.paint((6, 24, 24), 1)
    desk.viewer.layers.remove(labels)
    desk.until(lambda: epoch_of(desk, "live_facts") > learned)
    folder = RunFolder.beside(run.order.folder.model)
    (own,) = (folder.root / "data" / "labels").iterdir()
    desk.until(lambda: np.array_equal(read_image(own).data, labels.data))
    rows = len(run._rows)
    desk.until(lambda: len(run._rows) > rows)
    assert desk.text("error") == ""

    labels.fill((0, 0, 0), 1)
    os.kill(desk.session.jobs.pid, signal.SIGKILL)
    kept = desk.wait()
    assert "background process" in desk.text("error")
    assert kept.model.is_file()
    saved = folder.root / "annotations" / "renamed.nii.gz"
    desk.until(lambda: read_image(saved).data[0, 0, 0] == 1)
    assert desk.text("live_facts") == ""
