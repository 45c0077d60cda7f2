"""How long the Segment widget takes to open in a window that is there, in fresh processes, and whether torch comes in.

    python3 run.py bench widget_opening [--repeats 9]

From the call until the dock is painted. Cold: as from the menu, with all of the plugin's imports. Warm: its modules
have been imported before.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from statistics import median


def open_once(kind: str) -> None:
    """Open a window, then the widget; print seconds until it is painted and whether torch was imported."""
    import napari
    import numpy as np
    from qtpy.QtWidgets import QApplication

    viewer = napari.Viewer()
    viewer.add_image(np.zeros((24, 80, 80), np.int16))
    until = time.perf_counter() + 1
    while time.perf_counter() < until:
        QApplication.processEvents()
    if kind == "warm":
        import napari_prosma.segment  # noqa: F401
    began = time.perf_counter()
    _, widget = viewer.window.add_plugin_dock_widget("napari-prosma", "Segment")
    QApplication.processEvents()
    took = time.perf_counter() - began
    if not widget.isVisible():
        raise SystemExit("The widget is not visible.")
    print(f"{took:.4f} {'torch' in sys.modules}")
    os._exit(0)  # the engine is starting: it sees us go, and ends


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--once", choices=("cold", "warm"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        open_once(options.once)
    times: dict[str, list[float]] = {"cold": [], "warm": []}
    torch = set()
    print(f"load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(options.repeats + 1):
            for kind, values in times.items():
                command = [sys.executable, __file__, "--once", kind]
                environment = {**os.environ, "XDG_CONFIG_HOME": folder}
                run = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
                seconds, has_torch = run.stdout.split()[-2:]
                torch.add(has_torch)
                if repeat:  # the first round fills the disk's cache
                    values.append(float(seconds))
    for kind, values in times.items():
        print(
            f"{kind}: median {median(values):.3f} s, {min(values):.3f} to {max(values):.3f} s, {len(values)} processes"
        )
    print(f'"torch" in sys.modules of the viewer: {", ".join(sorted(torch))}')
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
