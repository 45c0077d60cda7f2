"""The examples of docs/library.md, from a wheel in an environment of its own without Qt.

Builds the wheel, installs it with nothing but its own dependencies (at the versions of constraints.txt) into a new
environment, runs every example there, and prints how long each took. Fails where an example does, or where Qt or napari
is installed.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "library.md"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
WINDOWS = ("PyQt5", "PyQt6", "PySide2", "PySide6", "napari", "pyqtgraph", "qtpy", "superqt")
CHECK = f"""
import importlib.util, sys
found = [name for name in {WINDOWS} if importlib.util.find_spec(name)]
assert not found, f"installed with the library: {{found}}"
import prosma_core
assert "site-packages" in prosma_core.__file__, prosma_core.__file__
assert "torch" not in sys.modules
"""


def examples() -> dict[str, str]:
    """Code of each section of the page that has some, by its title."""
    sections = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    found = {section.partition("\n")[0]: "\n".join(BLOCK.findall(section)) for section in sections}
    return {title: code for title, code in found.items() if code}


def install(folder: Path) -> Path:
    """Build the wheel and install it into a new environment; gives the environment's Python."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True)
    (wheel,) = folder.glob("*.whl")
    environment = folder / "environment"
    venv.create(environment, with_pip=True)
    python = environment / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    constraints = ROOT / "constraints.txt"
    pip = [str(python), "-I", "-m", "pip", "install", "--quiet", "-c", str(constraints), str(wheel)]
    subprocess.run(pip, check=True)
    return python


def main() -> None:
    """Install and run."""
    with tempfile.TemporaryDirectory(prefix="prosma-wheel-") as temporary:
        python = install(Path(temporary))
        for title, code in {"Without Qt": CHECK, **examples()}.items():
            work = Path(tempfile.mkdtemp(dir=temporary))
            (work / "example.py").write_text(code, encoding="utf-8")
            began = time.monotonic()
            subprocess.run([str(python), "-I", "example.py"], cwd=work, check=True)
            print(f"ran: {title} ({time.monotonic() - began:.1f} s)", flush=True)


if __name__ == "__main__":
    main()
