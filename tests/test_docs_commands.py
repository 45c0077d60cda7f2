"""Every command and script of `prosma`, torchrun, napari and pip in README and documentation runs, on small data.

Benchmarks and checks of the repository are too slow for that: their arguments are parsed by the programs themselves.
pip finds this version of the package in a folder, and says what it would install.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml
from tests.servers import serving

from prosma_core.cli import main as program
from prosma_core.data.geometry import array_spec
from prosma_core.io.images import write_image, write_labels

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^ *```[^\n]*\n(.*?)^ *```|^ {4,}(\S[^\n]*)$", re.MULTILINE | re.DOTALL)
STANDS_FOR = {
    "IMAGE": "scan.nii.gz",
    "INPUT...": "scan.nii.gz",
    "NAME_OR_FILE": "liver.safetensors",
    "FILE_OR_DIR": "results",
    "OUT": "maps",
    "RUN/run.yaml": "liver.prosma/run.yaml",
    "hippocampus-mri": "liver.safetensors",  # a small network, with levels 0 and 1
    "level=2:tau*0": "level=1:tau*0",
    "20": "1",  # epochs
    "scheduler.json": "local:1",
    "$part/2": "1/2",
    "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT": "1/8",
}
LEFT_OUT = {
    "--check-update": "asks a server",
    "tls://HOST:8786": "needs a scheduler with certificates",
    "benchmarks/shipped/breast-lesion-us.yaml": "trains on a whole public data set",
}
TINY: dict[str, dict[str, object]] = {
    "network": {"width": 4, "max_width": 8, "max_stages": 3},
    "preprocess": {"tile": [16, 16, 16]},
    "training": {"epochs": 1, "steps": 1, "batch_size": 1, "validation_cases": 1},
}


def documented() -> list[str]:
    """The distinct command lines of all pages, in their order."""
    found: dict[str, None] = {}
    for page in PAGES:
        for fenced, indented in BLOCK.findall(page.read_text(encoding="utf-8")):
            for line in (fenced or indented).replace("\\\n", " ").splitlines():
                part = re.sub(r"\s#.*", "", line).strip().removeprefix("$ ")
                if part.startswith("prosma "):
                    found[" ".join(part.split()[1:])] = None
    return list(found)


def test_every_documented_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_inputs(tmp_path)
    with serving(tmp_path) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        run_documented(server.url, monkeypatch, capsys)
        assert any("/bucket/scans/brain.zarr" in each for each in server.asked)


def run_documented(server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    lines = documented()
    assert len(lines) > 20
    run: list[list[str]] = []
    for line in sorted(lines, key=lambda line: not line.startswith("train --data")):  # the others use their models
        words = [STANDS_FOR.get(word, word) for word in shlex.split(line.removesuffix(" &"))]
        arguments = [word.replace("https://example.org", server) for word in words]
        if LEFT_OUT.keys() & set(arguments) or arguments in run:
            continue
        run.append(list(arguments))
        remove_results(arguments)
        if arguments[0] == "train" and "--config" not in arguments and "--resume" not in arguments:
            arguments += ["--config", "tiny.yaml"]
        monkeypatch.setattr(sys, "argv", ["prosma", *arguments])
        code: object = 0
        try:
            program.main()
        except SystemExit as end:
            code = end.code or 0
        assert code == 0, f"prosma {line}: {capsys.readouterr().err}"
        for before, word in pairwise(arguments):
            assert before not in ("--out", "--json") or Path(word).exists(), line


def lines_of(program: str) -> list[str]:
    """The distinct command lines of all pages that start a program, also those inside of a sentence."""
    found: dict[str, None] = {}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = [fenced or indented for fenced, indented in BLOCK.findall(text)]
        spans = re.findall(r"`([^`\n]+)`", BLOCK.sub("", text))
        for line in "\n".join([*blocks, *spans]).replace("\\\n", " ").splitlines():
            part = " ".join(re.sub(r"\s#.*", "", line).split())
            if part.startswith(program + " "):
                found[part] = None
    return list(found)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="several processes are tested on Linux")
def test_every_documented_torchrun_trains_with_two_processes_on_a_cpu(tmp_path: Path) -> None:
    make_inputs(tmp_path)
    tiny = {**TINY, "training": {**TINY["training"], "batch_size": 2}}  # a patch for each process
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(tiny), encoding="utf-8")
    lines = [line for line in lines_of("torchrun") if "prosma_core.cli" in line]
    assert len(lines) == 2
    for line in lines:  # the second continues the run of the first
        added = ["--more-epochs", "1"] if "--resume" in line else ["--config", "two.yaml", "--device", "cpu"]
        command = [sys.executable, "-m", "torch.distributed.run", *shlex.split(line)[1:], *added]
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
        assert ran.returncode == 0, f"{line}: {ran.stderr}"
    history = (tmp_path / "MODEL.prosma" / "history.csv").read_text(encoding="utf-8").splitlines()
    assert len(history) == 1 + 2, history


OPEN_AND_CLOSE = """
import sys, time
import napari
from napari.__main__ import main
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication, QDialog, QDockWidget, QRadioButton

app = napari.qt.get_qapp()
end = time.monotonic() + 150

def look():
    for widget in app.topLevelWidgets():
        if type(widget).__name__ == "QtReaderDialog" and widget.isVisible():
            next(button for button in widget.findChildren(QRadioButton) if button.text() == "ProSMA").click()
            widget.accept()
            return
    viewer = napari.current_viewer()
    docks = viewer.window._qt_window.findChildren(QDockWidget) if viewer is not None else []
    titles = [dock.windowTitle() for dock in docks if dock.isVisible() and "ProSMA" in dock.windowTitle()]
    if titles and len(viewer.layers) or time.monotonic() > end:
        print(titles, [layer.name for layer in viewer.layers], flush=True)
        timer.stop()
        viewer.close()

timer = QTimer(interval=50)
timer.timeout.connect(look)
timer.start()
main()
"""
"""Starts napari with the arguments given, chooses ProSMA where it asks for a reader, and closes it when the dock and
the layer are there."""


@pytest.mark.slow
@pytest.mark.usefixtures("display")
@pytest.mark.parametrize("line", dict.fromkeys(line.replace(" SCAN ", " scan.nii.gz ") for line in lines_of("napari")))
def test_every_documented_call_of_napari_opens_the_scan_and_the_widget(line: str, tmp_path: Path) -> None:
    words = shlex.split(line)[1:]
    make_inputs(tmp_path)
    environment = {**os.environ, "HOME": str(tmp_path), "NAPARI_CONFIG": str(tmp_path / "napari.yaml")}
    with serving(tmp_path) as server:
        command = [sys.executable, "-c", OPEN_AND_CLOSE, *(w.replace("https://example.org", server.url) for w in words)]
        ran = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200, check=False
        )
    assert ran.returncode == 0, ran.stderr
    widget = words[-1] if words[-1] in ("Train", "Gates") else "Segment"
    name = Path(words[0]).name.partition(".")[0]
    assert ran.stdout.splitlines()[-1] == f"['ProSMA {widget}'] ['{name}']", ran.stdout + ran.stderr


NOT_RUN = {
    "pip install torch --index-url https://download.pytorch.org/whl/cpu": "asks a server",
    "pip uninstall napari-prosma": "would end this installation",
}


@pytest.mark.slow
def test_every_documented_call_of_pip_finds_the_package_and_its_extras(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    lines = [line for line in lines_of("pip") if line not in NOT_RUN]
    assert len(lines) >= 4
    wheels = tmp_path / "packages"
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels)]
    subprocess.run(build, cwd=ROOT, capture_output=True, check=True)
    for line in lines:
        what, *words = shlex.split(line)[1:]
        here = ["--no-deps", "--no-index", "--find-links", str(wheels), "--disable-pip-version-check"]
        here += ["--dry-run", "--ignore-installed"] if what == "install" else []
        command = [sys.executable, "-m", "pip", what, *words, *here]
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
        said = ran.stdout + ran.stderr
        assert ran.returncode == 0, f"{line}: {said}"
        assert re.search(r"Would install napari-prosma|napari_prosma-.*\.whl", said), f"{line}: {said}"
        assert "does not provide the extra" not in said, f"{line}: {said}"


PARSE = """
import argparse, json, runpy, sys

class Parsed(BaseException):
    pass

parse = argparse.ArgumentParser.parse_args
def parse_only(self, *arguments, **options):
    parse(self, *arguments, **options)
    raise Parsed
argparse.ArgumentParser.parse_args = parse_only
folder = sys.path[0]
for file, *arguments in json.loads(sys.argv[1]):
    sys.argv[:] = [file, *arguments]
    sys.path[0] = file.rpartition("/")[0]
    try:
        runpy.run_path(file, run_name="__main__")
    except Parsed:
        continue
    except SystemExit as error:
        print(f"{file} {arguments}: ended with {error.code}")
    else:
        print(f"{file} {arguments}: was not parsed")
"""
"""Lets each program parse its arguments and nothing more; prints where one refuses them."""


@pytest.mark.slow
def test_arguments_of_every_documented_call_of_the_repositorys_programs_are_accepted() -> None:
    calls, bare = [], []
    for line in [line for start in ("python3 run.py", "run.py", "python", "torchrun") for line in lines_of(start)]:
        words = [word.strip("[]…") for word in shlex.split(line)]
        names = [word for word in words if word.endswith(".py")]
        if not names:
            continue
        words = [word for word in words[words.index(names[0]) + 1 :] if word]
        file = ROOT / names[0]
        if file.name == "run.py":
            verb, *words = words or [""]
            if verb == "bench" and words:
                file, words = ROOT / "benchmarks" / f"{words[0]}.py", words[1:]
            elif verb == "fuzz":
                file = ROOT / "tests" / "fuzz" / "__main__.py"
            else:
                continue  # a verb without arguments of its own: tests/test_docs.py
        if "parse_args(" in file.read_text(encoding="utf-8"):
            calls.append([str(file), *words])
        elif words:
            bare.append(line)
    assert bare == [], "takes no arguments"
    assert len(calls) > 20
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "src")))}
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PARSE, json.dumps(calls)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (0, ""), ran.stdout + ran.stderr


SCRIPT = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
RULE = re.compile(r'shell: "(.*?)"')
TASK = {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "8", "SLURM_CPUS_PER_TASK": "1"}


def scripts() -> list[str]:
    """Lines for a shell: scripts of all pages, and the command of each rule of Snakemake."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    rules = [
        rule.format(input="bids/sub-01/anat/sub-01_T1w.nii.gz", output="one.nii.gz") for rule in RULE.findall(text)
    ]
    return [script for script in [*SCRIPT.findall(text), *rules] if "HOST" not in script]  # what another computer has


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="scripts for a POSIX shell")
@pytest.mark.parametrize("script", scripts())
def test_every_documented_script_runs(script: str, tmp_path: Path) -> None:
    if "parallel" in script and not shutil.which("parallel"):
        script = re.sub("(?m)^parallel .*\n", "", script)  # GNU parallel is not there
    make_inputs(tmp_path)
    paths = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = {**os.environ, **TASK, "PATH": paths, "OMP_NUM_THREADS": "1"}
    command = ["bash", "-euo", "pipefail", "-c", script]
    with (tmp_path / "said").open("wb") as said:  # what is started in the background may go on
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=said, stderr=said, process_group=0)
        try:
            code = process.wait(timeout=240)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert code == 0, (tmp_path / "said").read_text(encoding="utf-8")
    assert list(tmp_path.glob("results/**/*_T1w.nii.gz")) or (tmp_path / "one.nii.gz").exists(), "no result"


def remove_results(arguments: list[str]) -> None:
    """What an earlier command wrote under the same name."""
    if "--resume" in arguments:
        return
    for before, word in pairwise(arguments):
        if before in ("--out", "--json"):
            for path in (Path(word), Path(word).with_suffix(".prosma")):
                shutil.rmtree(path, ignore_errors=True)
                if path.is_file():
                    path.unlink()


def make_inputs(folder: Path) -> None:
    """Scans, label maps, training folders and settings under the names of the documentation."""
    rng = np.random.default_rng(0)
    spec = array_spec((16, 16, 16), "zyx", (1, 1, 1), "mm")
    labels = np.zeros((16, 16, 16), np.uint8)
    labels[4:12, 4:12, 4:12] = 1
    labels[10:14, 10:14, 10:14] = 2
    image = rng.normal(100, 20, labels.shape).astype(np.float32) + 80 * labels

    def write(image_path: str, labels_path: str = "") -> None:
        (folder / image_path).parent.mkdir(parents=True, exist_ok=True)
        write_image(folder / image_path, image, spec)
        if labels_path:
            (folder / labels_path).parent.mkdir(parents=True, exist_ok=True)
            write_labels(folder / labels_path, labels, spec)

    write("scan.nii.gz", "labels.nii.gz")
    for place in ("", "scans/", "bucket/scans/"):
        write(f"{place}brain.zarr")
    write("scans/scan.nii.gz")
    write("scan.ome.zarr")
    for subject in ("sub-01", "sub-02"):
        write(f"bids/{subject}/anat/{subject}_T1w.nii.gz")
    (folder / "scans.txt").write_text("bids/sub-01/anat/sub-01_T1w.nii.gz\nbids/sub-02/anat/sub-02_T1w.nii.gz\n")
    write("scans/a.nii.gz")
    write("new_scans/a.nii.gz")
    for number in "12":
        write(f"scan{number}.nii.gz", f"painted{number}.nii.gz")
    for data in ("DIR", "DIR/msd_hippocampus"):
        for case in "abcd":
            write(f"{data}/images/{case}.nii.gz", f"{data}/labels/{case}.nii.gz")
        (folder / data / "splits.json").write_text('{"train": ["a", "b", "c"], "val": ["d"]}', encoding="utf-8")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY), encoding="utf-8")
