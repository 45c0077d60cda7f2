"""Set up and run the project: ``python3 run.py demo | test | lint | fuzz | bench | screenshots``.

Needs Python 3.11 or newer and its standard library. Everything it installs goes into the folder ``.venv`` beside this
file; the exact versions are those of ``constraints.txt``.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036  (the text below is for people whose Python is older)
    sys.exit(
        "napari-prosma needs Python 3.11 or newer; this is {}.{}.\n"
        "Install one from https://www.python.org/downloads/ and call this file with it, "
        "for example: python3.12 run.py test".format(*sys.version_info[:2])
    )

import ast
import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent
EXTRAS = "cluster,dev,docs,medical,qt,remote"

# Debian and Ubuntu packages that Qt and OpenGL need, beyond what Python's own packages bring.
WINDOW_PACKAGES = [
    "libdbus-1-3",
    "libegl1",
    "libfontconfig1",
    "libgl1",
    "libgl1-mesa-dri",
    "libxcb-cursor0",
    "libxcb-icccm4",
    "libxcb-image0",
    "libxcb-keysyms1",
    "libxcb-randr0",
    "libxcb-render-util0",
    "libxcb-shape0",
    "libxcb-xinerama0",
    "libxcb-xkb1",
    "libxkbcommon-x11-0",
]
SCREEN_PACKAGES = ["xauth", "xvfb"]  # a virtual screen, where there is none
VIRTUAL_SCREEN = ["xvfb-run", "--auto-servernum", "--server-args=-screen 0 1440x900x24"]


def say(text: str) -> None:
    """Print one line at once, so that it stands before what the next step prints."""
    print(text, flush=True)


def as_line(command: Sequence[str]) -> str:
    """Return a command as the line a person can paste into a terminal."""
    return subprocess.list2cmdline(command) if os.name == "nt" else shlex.join(command)


def call(command: Sequence[str], cwd: Path | None = None, environment: dict[str, str] | None = None) -> int:
    """Run a command, its output in this terminal, and return its exit code (127 where it cannot be started)."""
    try:
        return subprocess.run(command, cwd=cwd, env=environment, check=False).returncode
    except OSError as error:
        say(f"{command[0]}: {error}")
        return 127


def step(title: str, command: Sequence[str], advice: str, environment: dict[str, str] | None = None) -> None:
    """Run one step of the set-up; where it fails, leave with its name, its command and how to go on."""
    say(f"== {title}")
    code = call(command, ROOT, environment)
    if code != 0:
        sys.exit(f"\nFailed: {title} (exit code {code}).\nThe command was:\n    {as_line(command)}\n{advice}")


# --- The environment ------------------------------------------------------------------------------------------------


def venv_program(name: str) -> str:
    """Return the path of a program inside ``.venv``, on any system."""
    folder, suffix = ("Scripts", ".exe") if os.name == "nt" else ("bin", "")
    return str(ROOT / ".venv" / folder / (name + suffix))


def stamp_text() -> str:
    """Return what the environment depends on: both dependency files and the Python in it, as one hash."""
    digest = hashlib.sha256(EXTRAS.encode())
    for name in ("pyproject.toml", "constraints.txt", ".venv/pyvenv.cfg"):
        path = ROOT / name
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()


def torch_pin() -> str:
    """Return the torch requirement of ``constraints.txt``, such as ``torch==2.13.0``."""
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("torch=="):
            return line.split()[0]
    sys.exit("constraints.txt names no torch version; it needs a line such as torch==2.13.0")


def has_nvidia_gpu() -> bool:
    """Return whether an NVIDIA driver is installed."""
    return Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi") is not None


def python_works() -> bool:
    """Return whether the environment's Python starts and has pip (not after an upgrade of the system's Python)."""
    try:
        command = [venv_program("python"), "-c", "import pip"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def set_up() -> None:
    """Make ``.venv`` and install the project with its tools; do nothing where that is done already."""
    stamp = ROOT / ".venv" / "set-up-stamp.txt"
    works = python_works()
    if works and stamp.is_file() and stamp.read_text(encoding="utf-8") == stamp_text():
        return
    stamp.unlink(missing_ok=True)
    if not works:
        if importlib.util.find_spec("ensurepip") is None:  # Debian ships it apart
            add_system_packages([f"python3.{sys.version_info.minor}-venv"])
        step(
            "Make the environment .venv",
            [sys.executable, "-m", "venv", "--clear", str(ROOT / ".venv")],
            "Delete the folder .venv, check that the disk is not full, and call the same again.",
        )
    install_packages()
    stamp.write_text(stamp_text(), encoding="utf-8")


def install_packages() -> None:
    """Install torch, alone and first (so that the build pip is pointed to is taken), then the project, editable."""
    pip = [venv_program("python"), "-m", "pip", "install", "-c", "constraints.txt"]
    again = "Check the network (HTTPS_PROXY behind a proxy) and the disk, and call the same again: it goes on there."
    if platform.system() == "Linux" and not has_nvidia_gpu():
        say(
            "No NVIDIA GPU found: the CPU build of torch is enough. If a download of several GB starts, stop it\n"
            "(Ctrl+C), set PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu and call the same again."
        )
    step("Install torch", [*pip, torch_pin()], again)
    step("Install napari-prosma and its tools", [*pip, "-e", f".[{EXTRAS}]"], again)


# --- System libraries (Debian, Ubuntu) ------------------------------------------------------------------------------


def is_installed(package: str) -> bool:
    """Return whether dpkg lists a package as fully installed."""
    answer = subprocess.run(["dpkg", "-s", package], capture_output=True, text=True, check=False)
    return answer.returncode == 0 and "Status: install ok installed" in answer.stdout


def add_system_packages(packages: Sequence[str]) -> None:
    """Install the missing ones of some system packages as root; without root, leave with the one line to run."""
    if not packages or shutil.which("dpkg") is None:
        return
    missing = [package for package in packages if not is_installed(package)]
    if not missing:
        return
    install = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
    if os.name == "nt" or os.geteuid() != 0:
        sys.exit(f"System libraries are missing. Run this line, then call the same again:\n    sudo {as_line(install)}")
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    again = f"Check the network, or install by hand: {' '.join(missing)}; then call the same again."
    step("Read the list of system packages", ["apt-get", "update"], again, quiet)
    step(f"Install system libraries: {', '.join(missing)}", install, again, quiet)


# --- The screen -----------------------------------------------------------------------------------------------------


def has_screen() -> bool:
    """Return whether windows can be shown: always, except on Linux without a display."""
    return platform.system() != "Linux" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def system_packages(verb: str) -> list[str]:
    """Return the Debian and Ubuntu packages a verb cannot do without, beyond what Python's own packages bring."""
    if verb == "lint":
        return []
    if verb == "fuzz":  # --kills saves what the window saves, without a screen
        return WINDOW_PACKAGES
    return WINDOW_PACKAGES if has_screen() else WINDOW_PACKAGES + SCREEN_PACKAGES


def on_screen(command: Sequence[str]) -> list[str]:
    """Return a command that may open windows: as it is, or under a virtual screen where there is none."""
    if has_screen():
        return list(command)
    if shutil.which("xvfb-run") is None:
        sys.exit("There is no display. Log in on a screen, or install Xvfb (on Fedora: xorg-x11-server-Xvfb).")
    return [*VIRTUAL_SCREEN, *command]


# --- Verbs ----------------------------------------------------------------------------------------------------------


def run_demo(arguments: list[str]) -> int:
    """Open napari with a sample scan and segment it; without a display, write demo.png and print the Dice."""
    shown = [] if has_screen() else ["--screenshot", "demo.png"]
    return call(on_screen([venv_program("python"), "-m", "napari_prosma.demo", *shown, *arguments]), ROOT)


def run_test(arguments: list[str]) -> int:
    """Run all tests, with ``--cov`` also their branch coverage; what else follows goes to pytest, e.g. ``-k tiles``."""
    pytest = [venv_program("python"), "-m", "pytest"]
    if arguments not in ([], ["--cov"]):
        return call(on_screen([*pytest, *arguments]), ROOT)
    two_processes = ["--numprocesses=2", "--dist=loadfile", "--no-loadscope-reorder"]  # the long files first
    # a quarter more time for one line, and failure below `fail_under` of pyproject.toml
    coverage = ["--cov", "--cov-report="] if arguments else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # each process, and each engine that it starts
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # or every process would compile the tests anew
    return call(on_screen([*pytest, *two_processes, *coverage]), ROOT, environment)


def run_lint(arguments: list[str]) -> int:
    """Check style, format, types, the import rules, and that the documentation builds without a warning."""
    if arguments:
        sys.exit(f"lint takes no arguments; given: {' '.join(arguments)}")
    python = venv_program("python")
    checks = {
        "ruff check": [python, "-m", "ruff", "check", "."],
        "ruff format": [python, "-m", "ruff", "format", "--check", "."],
        "mypy": [python, "-m", "mypy"],
        "import-linter": [venv_program("lint-imports")],
        "mkdocs": [python, "-m", "mkdocs", "build", "--strict"],
    }
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}  # mkdocs-material prints advice that is no finding
    failed = []
    for name, command in checks.items():
        say(f"== {name}")
        if call(command, ROOT, environment) != 0:
            failed.append(name)
    if failed:
        say(f"\nFailed: {', '.join(failed)}. The lines to change stand above; `ruff format .` formats all files.")
    return 1 if failed else 0


def run_fuzz(arguments: list[str]) -> int:
    """Read thousands of damaged files, or kill saves (``--kills``), and print what came out; ``--help`` says more."""
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "PROSMA_PROBE": "0"}
    return call([venv_program("python"), str(ROOT / "tests" / "fuzz"), *arguments], environment=one_thread)


def run_bench(arguments: list[str]) -> int:
    """Run one benchmark: ``bench NAME [arguments]``; without a name, list them."""
    scripts = {path.stem: path for path in sorted((ROOT / "benchmarks").glob("*.py")) if path.stem[0] != "_"}
    if not arguments:
        for name, path in scripts.items():
            text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            say(f"{name:<24}{text.partition(chr(10))[0]}")
        return 0
    if arguments[0] not in scripts:
        sys.exit(f"There is no benchmark {arguments[0]!r}; there are: {', '.join(scripts) or 'none'}.")
    prepare("bench")
    same = {"PROSMA_PROBE": "0", **os.environ}  # both sides of a comparison compute in the same way
    return call(on_screen([venv_program("python"), str(scripts[arguments[0]]), *arguments[1:]]), environment=same)


def run_screenshots(arguments: list[str]) -> int:
    """Make the pictures of the documentation anew, from the real program."""
    return call(on_screen([venv_program("python"), "docs/screenshots.py", *arguments]), ROOT)


VERBS: dict[str, Callable[[list[str]], int]] = {
    "demo": run_demo,
    "test": run_test,
    "lint": run_lint,
    "fuzz": run_fuzz,
    "bench": run_bench,
    "screenshots": run_screenshots,
}


def prepare(verb: str) -> None:
    """Add the system libraries a verb needs, and set up the environment."""
    add_system_packages(system_packages(verb))
    set_up()


def usage() -> str:
    """Return the help text: one line for each verb."""
    lines = [f"  {verb:<12}{(run.__doc__ or '').strip()}" for verb, run in VERBS.items()]
    return "\n".join(["python3 run.py VERB [arguments]", "", *lines])


def main(arguments: list[str]) -> int:
    """Run one verb and return the exit code."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        say(usage())
        return 0 if arguments else 2
    verb, rest = arguments[0], arguments[1:]
    if verb not in VERBS:
        say(f"There is no verb {verb!r}.\n\n{usage()}")
        return 2
    if verb != "bench":  # listing the benchmarks needs nothing installed
        prepare(verb)
    return VERBS[verb](rest)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("\nStopped. Call the same again to go on.")
