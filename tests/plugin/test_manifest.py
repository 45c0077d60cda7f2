"""What the manifest promises napari is there, light, and takes nothing away from others."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from npe2 import PluginManifest

import napari_prosma
from prosma_core.io.names import FORMATS, LABEL_SUFFIXES, WRITTEN_SUFFIXES

PICTURES = {".png", ".jpg", ".jpeg", ".bmp"}
"""Plain pictures have no geometry: napari's own reader and writer do for them."""
MANIFEST = Path(napari_prosma.__file__).parent / "napari.yaml"


@pytest.fixture
def manifest() -> PluginManifest:
    return PluginManifest.from_file(MANIFEST)


def test_the_manifest_is_valid_and_every_command_can_be_imported(manifest: PluginManifest) -> None:
    manifest.validate_imports()
    assert (manifest.name, manifest.display_name) == ("napari-prosma", "ProSMA")


def test_the_package_announces_its_manifest(root: Path) -> None:
    (found,) = entry_points(group="napari.manifest", name="napari-prosma")
    assert found.value == "napari_prosma:napari.yaml"
    assert (root / "napari.yaml").resolve() == MANIFEST.resolve()


def test_the_widgets_are_in_napari_menus(manifest: PluginManifest) -> None:
    commands = {name: f"napari-prosma.{name.lower()}" for name in ("Segment", "Train", "Gates")}
    assert {w.display_name: w.command for w in manifest.contributions.widgets or []} == commands
    assert [item.command for item in manifest.contributions.menus["napari/layers/segment"]] == list(commands.values())
    assert [item.command for item in manifest.contributions.menus["napari/layers/visualize"]] == ["napari-prosma.gates"]


def test_names_of_widgets_on_the_command_line_of_napari_are_those_it_takes(
    manifest: PluginManifest, root: Path
) -> None:
    pages = [root / "README.md", *(root / "docs").glob("*.md")]
    found = [re.findall(r"-w napari-prosma[ ]+([A-Z]\w+(?: \(\w+\))?)", page.read_text("utf-8")) for page in pages]
    named = {name for names in found for name in names}
    assert named == {"Train", "Gates"}
    assert named < {widget.display_name for widget in manifest.contributions.widgets or []}


@pytest.mark.slow
def test_reader_and_layers_bring_no_torch_into_the_viewers_process() -> None:
    code = (
        "import sys, napari_prosma; assert 'napari' not in sys.modules\n"
        "import napari_prosma._reader, napari_prosma._writer, napari_prosma.layers.results\n"
        "from napari_prosma._sample_data import phantom_3d_layers; phantom_3d_layers()\n"
        "bad = {'torch', 'monai'} & set(sys.modules)\n"
        "sys.exit(f'imported: {bad}' if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_napari_picks_our_writer_where_only_ours_keeps_the_geometry(plugin: Any) -> None:
    plugin.register(builtins())
    for layer_type in ("labels", "image"):
        for name in ("x.nii", "x.nii.gz", "x.ome.tif", "X.OME.TIFF"):
            writer, path = plugin.get_writer(name, [layer_type])
            assert writer is not None
            assert (writer.plugin_name, path) == ("napari-prosma", name)
        assert plugin.get_writer("x.tif", [layer_type], plugin_name="napari-prosma")[0] is not None


def test_pictures_and_folders_of_others_stay_napari_own(npe2pm: Any, manifest: PluginManifest, tmp_path: Path) -> None:
    npe2pm.register(builtins())
    npe2pm.register(manifest)
    for name in (*(f"x{suffix}" for suffix in PICTURES), "x.csv"):
        assert {r.plugin_name for r in npe2pm.iter_compatible_readers(name)} == {"napari"}, name
    writer, _ = npe2pm.get_writer("x.tif", ["labels"])
    assert writer.plugin_name == "napari"
    (tmp_path / "run.prosma").mkdir()
    assert "napari-prosma" in {r.plugin_name for r in npe2pm.iter_compatible_readers(str(tmp_path / "run.prosma"))}


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_of_the_command_line_is_read_in_napari(suffix: str, npe2pm: Any, manifest: PluginManifest) -> None:
    npe2pm.register(manifest)
    name = f"x{'_mask' if suffix == '.png' else ''}{suffix}"
    for spelled in (name, name.removesuffix(suffix) + suffix.upper(), f"a.b {name}"):
        found = {r.plugin_name for r in npe2pm.iter_compatible_readers(spelled)}
        assert found == (set() if suffix in {".jpg", ".jpeg", ".bmp"} else {"napari-prosma"}), spelled


def test_layers_can_be_saved_in_every_format_that_keeps_their_place(manifest: PluginManifest) -> None:
    writers = {w.layer_types[0]: set(w.filename_extensions) for w in manifest.contributions.writers or []}
    assert writers["labels"] == set(LABEL_SUFFIXES) - {".bmp"}
    assert writers["image"] == set(WRITTEN_SUFFIXES) - PICTURES - {".seg.nrrd"}


def builtins() -> PluginManifest:
    """Napari's own readers and writers."""
    return PluginManifest.from_distribution("napari")
