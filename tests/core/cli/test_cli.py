"""The command line: what each verb takes, writes and says, and how it refuses what cannot work."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import click
import nibabel as nib
import numpy as np
import pytest
import tifffile
import typer
import yaml
from PIL import Image
from safetensors.numpy import load, load_file, save
from scipy import ndimage

from prosma_core.cli import main, progress
from prosma_core.cli.main import app
from prosma_core.config.inference import InferenceConfig
from prosma_core.data.geometry import array_spec
from prosma_core.events import Event
from prosma_core.inference.cpu_tuning import cpu_settings
from prosma_core.io import releases
from prosma_core.io.bundle import find_model, load_bundle, read_header, save_bundle, shipped_models
from prosma_core.io.images import read_image, write_image
from prosma_core.io.notes import read_notes
from prosma_core.training.trainer import Trainer

Prosma = Callable[..., tuple[int, str, str]]
Make = Callable[..., Path]
DOCS = Path(__file__).parents[3] / "docs"

TINY = {
    "network": {"width": 4, "max_width": 8, "max_stages": 2},
    "preprocess": {"tile": [16, 16]},
    "training": {"epochs": 2, "steps": 2, "batch_size": 2},
}


@pytest.fixture
def model(tmp_path: Path, make_model: Make) -> Path:
    return make_model(tmp_path / "model.safetensors")


@pytest.fixture
def volume_model(tmp_path: Path, make_model: Make) -> Path:
    return make_model(tmp_path / "volume.safetensors", 3)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    return save_png(tmp_path / "in" / "x.png")


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)


def save_png(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels(20, 22)).save(path)
    return path


def save_nifti(path: Path, data: np.ndarray | None = None, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    data = pixels(18, 17, 9).astype(np.float32) if data is None else data
    nib.save(nib.Nifti1Image(data, np.diag([1.0, 1.0, 2.0, 1.0]) if affine is None else affine), path)
    return path


def refused(result: tuple[int, str, str], *facts: str, codes: tuple[int, ...] = (2, 4)) -> str:
    """Check that nothing was done and one message says why, a sentence that holds `facts`; give the message."""
    code, _, err = result
    assert code in codes
    assert "Traceback" not in err
    message = err[err.index("Error: ") :]
    assert message.count("Error: ") == 1
    assert re.search(r"[.…)\]]$", message.strip())
    for fact in facts:
        assert fact in message
    return message


def leftovers(folder: Path) -> list[str]:
    return [p.name for p in folder.rglob("*")] if folder.exists() else []


# ---------------------------------------------------------------- verbs and flags


VERBS = {
    "train": "--data --pair --out --config --preset --gate --init --resume --device --epochs --more-epochs --minutes "
    "--seed --sparse --annotated-slices --ignore --background --one-class --overwrite",
    "segment": "--model --out --device --overlap --mirror --probabilities --region --slice-axis --overwrite "
    "--threshold --min-size --objects",
    "evaluate": "--model --data --split --json --sparse --annotated-slices --ignore --background --one-class",
    "doctor": "",
}


@pytest.mark.parametrize("verb", list(VERBS))
def test_every_verb_has_its_flags(verb: str) -> None:
    command = typer.main.get_command(app).commands[verb]  # type: ignore[attr-defined]
    flags = {flag for parameter in command.params for flag in parameter.opts}
    assert set(VERBS[verb].split()) <= flags


@pytest.mark.parametrize("verb", ["segment", "evaluate"])
def test_the_overlap_is_the_settings_own_unless_given(verb: str) -> None:
    command = typer.main.get_command(app).commands[verb]  # type: ignore[attr-defined]
    overlap = next(option for option in command.params if option.name == "overlap")
    assert overlap.default is None


def test_models_has_list_and_info() -> None:
    models = typer.main.get_command(app).commands["models"]  # type: ignore[attr-defined]
    assert {"list", "info"} <= set(models.commands)


def test_every_option_is_explained() -> None:
    def options(command: click.Command) -> list[Any]:
        below = getattr(command, "commands", {}).values()
        return [*command.params, *(option for sub in below for option in options(sub))]

    for option in options(typer.main.get_command(app)):
        assert getattr(option, "help", None), option.name


def test_an_option_of_several_commands_has_one_text() -> None:
    texts: dict[str, set[str]] = {}
    for command in typer.main.get_command(app).commands.values():  # type: ignore[attr-defined]
        for option in command.params:
            texts.setdefault(option.name, set()).add(getattr(option, "help", ""))
    assert {name for name, found in texts.items() if len(found) > 1} == {"out", "overwrite", "region"}
    text = InferenceConfig.explanations()["mirror"]
    assert texts["mirror"] == {text}
    assert text[1:].rstrip(".") in (DOCS / "segment.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("verb", ["train", "segment", "evaluate", "inspect"])
def test_help_and_documentation_name_the_exit_code_of_every_signal_that_stops(verb: str) -> None:
    command = typer.main.get_command(app).commands[verb]  # type: ignore[attr-defined]
    listed = (DOCS / "scale.md").read_text(encoding="utf-8").partition("### Exit codes")[2].partition("###")[0]
    for name in set(main.STOPPING) - {"SIGINT"}:
        for text in (command.help, listed):
            assert {name, str(128 + {"SIGTERM": 15, "SIGHUP": 1}[name])} <= set(re.findall(r"\w+", text))


def test_no_arguments_give_the_help(prosma: Prosma) -> None:
    code, out, err = prosma()
    assert code == 2
    assert "Usage: prosma" in out + err
    assert "segment" in out + err


def run_python(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "prosma_core.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120, check=False)


def test_help_is_given_without_torch() -> None:
    code = (
        "import sys; sys.argv = ['prosma', '--help']\n"
        "from prosma_core.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'monai', 'nibabel', 'scipy', 'zarr', 'tifffile'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "evaluate" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("THP_MEM_ALLOC_ENABLE", None, "1"),
        ("THP_MEM_ALLOC_ENABLE", "0", "0"),
        ("OMP_WAIT_POLICY", None, "PASSIVE"),
        ("OMP_WAIT_POLICY", "ACTIVE", "ACTIVE"),
    ],
)
def test_memory_and_threads_are_set_up_unless_a_person_decided(name: str, before: str | None, after: str) -> None:
    code = (
        "import os, sys; sys.argv = ['prosma', '--version']\n"
        "from prosma_core.cli.main import main\n"
        "try: main()\n"
        f"except SystemExit: print(os.environ['{name}'], 'torch' in sys.modules)"
    )
    environment = {k: v for k, v in os.environ.items() if k != name}
    environment |= {} if before is None else {name: before}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=60, check=True, env=environment)
    assert done.stdout.split()[-2:] == [after, "False"]  # it is read when torch is imported


def test_the_version_is_printed(prosma: Prosma) -> None:
    from prosma_core import __version__

    assert prosma("--version") == (0, f"prosma {__version__}\n", "")


@pytest.mark.parametrize(
    ("newest", "said"),
    [
        ("0.10.2", "Version 0.10.2 is available: pip install --upgrade napari-prosma"),
        ("0.0.9", "Up to date."),
        ("1.0rc1", "Version 1.0rc1 is available"),
    ],
)
def test_the_package_index_is_asked_only_on_request(
    prosma: Prosma, index: list[str], monkeypatch: pytest.MonkeyPatch, newest: str, said: str
) -> None:
    monkeypatch.setattr(main, "__version__", "0.9.1" if newest == "0.10.2" else "0.1.0")
    index.append(json.dumps({"info": {"version": newest}}))
    code, out, _ = prosma("--check-update")
    assert (code, out.splitlines()[1].startswith(said)) == (0, True), out
    assert index == []  # one request
    index.append("not asked for")
    for other in (["--version"], ["models", "list"], ["--help"]):
        assert prosma(*other)[0] == 0
    assert index == ["not asked for"]


@pytest.mark.parametrize("answer", ["", "[]", '{"info": {}}', "<html>"])
def test_an_index_that_says_nothing_useful_is_an_error_in_one_line(
    prosma: Prosma, index: list[str], answer: str
) -> None:
    index.append(answer)
    code, out, error = prosma("--check-update")
    assert (code, out) == (2, "")
    assert error.startswith("Error: The newest release could not be read from http://")
    assert "Check the network" in error


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A package index on this machine that gives each answer once."""
    answers: list[str] = []

    class Index(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if answers else 404)
            self.end_headers()
            self.wfile.write(answers.pop(0).encode() if answers else b"")

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Index) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(releases, "PACKAGE_INDEX", f"http://127.0.0.1:{server.server_port}/json")
        for name in ("http_proxy", "HTTP_PROXY"):
            monkeypatch.delenv(name, raising=False)
        yield answers
        server.shutdown()
        thread.join()


def test_doctor_says_what_would_be_used(prosma: Prosma) -> None:
    code, out, _ = prosma("doctor")
    assert code == 0
    for row in ("torch:", "memory:", "threads:", "cpu:", "cuda:", "models:", "would use:"):
        assert row in out
    assert "fp32, contiguous (PROSMA_PROBE=0)" in out


def test_doctor_probes_again(prosma: Prosma, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROSMA_PROBE", "1")
    monkeypatch.setenv("PROSMA_CACHE", str(tmp_path))
    cpu_settings.cache_clear()
    assert "probed when it is used first" in prosma("doctor")[1]
    code, out, _ = prosma("doctor", "--probe")
    assert code == 0
    assert re.search(r"channels last: +\d\.\d\d of the time", out)
    chosen = re.search(r"(?m)^cpu: .*(\d+ threads?, .*)$", out)
    assert chosen
    assert chosen[1] in prosma("doctor")[1]
    assert (tmp_path / "cpu.json").is_file()


def test_a_cpu_is_probed_before_it_is_used_and_that_is_said(
    prosma: Prosma, make_model: Make, make_data: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROSMA_PROBE", "1")
    monkeypatch.setenv("PROSMA_CACHE", str(tmp_path / "cache"))
    cpu_settings.cache_clear()
    model, data = make_model(tmp_path / "m.safetensors"), make_data(tmp_path / "data", count=1)
    code, _, err = prosma("segment", data / "images", "--model", model, "--out", tmp_path / "out", "--device", "cpu")
    chosen = cpu_settings()
    cpu_settings.cache_clear()
    assert code == 0
    lines = err.splitlines()
    assert lines[0] == "Benchmarking this CPU (first run only)…"
    extra = f", {chosen.inference_text}" if chosen.inference_text else ""
    assert lines[1] == f"Computing on CPU, {chosen.threads_text}{extra} (chosen)."


# ---------------------------------------------------------------- the way from data to a result


@pytest.mark.slow
def test_train_segment_evaluate_and_info_fit_together(
    prosma: Prosma, make_data: Make, settings: Path, tmp_path: Path
) -> None:
    data = make_data(tmp_path / "data", lesion=255)
    (data / "splits.json").write_text('{"train": ["case_0", "case_1"], "val": ["case_2", "case_3"]}')
    model, out = tmp_path / "lesion.safetensors", tmp_path / "out"
    code, said, _ = prosma("train", "--data", data, "--out", model, "--config", settings, "--gate", "none", "--seed", 3)
    assert code == 0
    assert re.search(r"Mean validation Dice [01]\.\d{4}", said)
    assert str(model) in said
    code, _, err = prosma("segment", data / "images", "--model", model, "--out", out)
    assert code == 0
    assert sorted(p.name for p in out.iterdir()) == [f"case_{n}.png" for n in range(4)]
    assert set(np.unique(np.asarray(Image.open(out / "case_0.png")))) <= {0, 1}
    assert "case_0 -> " in err
    report = tmp_path / "report.json"
    code, table, _ = prosma("evaluate", "--model", model, "--data", data, "--json", report)
    assert code == 0
    assert "surface Dice" in table
    values = json.loads(report.read_text())
    assert (values["model"], values["split"], list(values["cases"])) == ("lesion", "val", ["case_2", "case_3"])
    assert set(values["cases"]["case_2"]["class 1"]) >= {"dice", "iou", "hd95", "surface_dice"}
    code, _, _ = prosma("evaluate", "--model", model, "--data", data, "--split", "train", "--json", report)
    assert (code, list(json.loads(report.read_text())["cases"])) == (0, ["case_0", "case_1"])
    code, info, _ = prosma("models", "info", model)
    described = yaml.safe_load(info)
    assert code == 0
    assert described["model"]["gate"]["kind"] == "none"
    assert described["training"]["epochs"] == 2
    assert described["sha256"] == values["sha256"]
    assert list(described)[:4] == ["name", "description", "purpose", "classes"]
    assert list(described)[-4:] == ["model", "parameters", "file", "sha256"]
    assert not re.search(r"^ *- -?\d", info, re.MULTILINE), "numbers of one list stand in one line"


def test_without_a_terminal_every_verb_says_how_far_it_is(
    prosma: Prosma, make_data: Make, settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, trained = make_data(tmp_path / "data"), tmp_path / "own.safetensors"
    scan = sorted((data / "images").iterdir())[0]
    begun = prosma("train", "--data", data, "--out", trained, "--config", settings)[2]
    assert re.search(r"^epoch 1/2, step 1 of 2, loss \d\.\d+$", begun, re.MULTILINE)  # as soon as a stage begins
    assert "step 2 of" not in begun
    monkeypatch.setattr(progress, "EVERY", 0.0)
    lines = prosma("train", "--data", data, "--out", trained, "--config", settings, "--overwrite")[2]
    assert re.search(r"^epoch 2/2, step 2 of 2, loss ", lines, re.MULTILINE)
    assert re.search(r"^epoch 1/2, validating: 100 %", lines, re.MULTILINE)
    assert re.search(r"^epoch 2/2, validating the model: 100 %$", lines, re.MULTILINE)
    assert "Segmenting scan 1 of 1: " in prosma("segment", scan, "--model", trained, "--out", tmp_path / "seg")[2]
    assert re.search(r"^Tile 1 of \d", prosma("inspect", scan, "--model", trained, "--out", tmp_path / "g")[2], re.M)
    assert re.search(r"^Segmenting: 1 of \d+ tile", prosma("evaluate", "--model", trained, "--data", data)[2], re.M)


def test_evaluate_says_what_it_measures_and_takes_a_runs_splits(
    prosma: Prosma, make_data: Make, model: Path, tmp_path: Path
) -> None:
    data, splits, report = make_data(tmp_path / "data"), tmp_path / "splits.json", tmp_path / "report.json"
    code, said, err = prosma("evaluate", "--model", model, "--data", data)
    assert code == 0
    assert "HD95 (pixel)" in said
    assert "surface Dice (1 pixel)" in said
    assert "possibly also those it was trained on" in err
    assert err.count("Segmenting: ") == 1
    assert "Reading case" not in err
    splits.write_text('{"train": ["case_0"], "val": ["case_1"]}')
    code, _, err = prosma("evaluate", "--model", model, "--data", data, "--split", splits, "--json", report)
    assert code == 0
    assert "on 1 cases" not in err
    assert list(json.loads(report.read_text())["cases"]) == ["case_1"]


def test_a_run_folder_repeats_its_run(prosma: Prosma, make_data: Make, settings: Path, tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    assert prosma("train", "--data", data, "--out", first, "--config", settings, "--preset", "quick")[0] == 0
    folder = tmp_path / "first.prosma"
    assert {p.name for p in folder.iterdir()} >= {"run.yaml", "splits.json", "history.csv", "command.txt"}
    assert "run.yaml" in (folder / "command.txt").read_text()
    assert sum(map(len, json.loads((folder / "splits.json").read_text()).values())) == 4
    assert prosma("train", "--config", folder / "run.yaml", "--out", second)[0] == 0
    a, b = load_file(first), load_file(second)
    assert a.keys() == b.keys()
    assert all(np.array_equal(a[key], b[key]) for key in a)
    rows = [yaml.safe_load((tmp_path / f"{name}.prosma/run.yaml").read_text()) for name in ("first", "second")]
    assert rows[0].pop("out") != rows[1].pop("out")
    assert rows[0] == rows[1]


def test_a_finished_run_is_not_overwritten_by_accident(
    prosma: Prosma, make_data: Make, settings: Path, tmp_path: Path
) -> None:
    data, model = make_data(tmp_path / "data"), tmp_path / "m.safetensors"
    train = ("train", "--data", data, "--out", model, "--config", settings, "--epochs", 1)
    assert prosma(*train)[0] == 0
    before = {p: p.read_bytes() for p in tmp_path.rglob("m.*/**/*") if p.is_file()} | {model: model.read_bytes()}
    refused(prosma(*train), "exists already", "--resume", "--overwrite")
    refused(prosma("train", "--data", tmp_path / "no", "--out", model, "--overwrite"), "is not a data folder")
    assert {p: p.read_bytes() for p in before} == before
    assert prosma(*train, "--seed", 1, "--overwrite")[0] == 0
    assert model.read_bytes() != before[model]


def test_resume_goes_on_from_the_run_folder(prosma: Prosma, make_data: Make, settings: Path, tmp_path: Path) -> None:
    data, model = make_data(tmp_path / "data"), tmp_path / "m.safetensors"
    assert prosma("train", "--data", data, "--out", model, "--config", settings)[0] == 0
    code, _, err = prosma("train", "--out", model, "--resume", "--epochs", 3)
    assert code == 0
    assert "Resuming after epoch 2 of 3" in err
    assert read_header(model).training["steps_per_epoch"] == 2
    refused(prosma("train", "--data", data, "--out", tmp_path / "new.safetensors", "--resume"), "no training to resume")
    assert not list(tmp_path.glob("new.*"))


@pytest.mark.parametrize("epochs", [0, 1])
def test_a_training_that_is_stopped_says_what_is_kept_and_how_to_continue(
    prosma: Prosma, make_data: Make, settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs: int
) -> None:
    epoch = Trainer.epoch

    def stopped(trainer: Trainer) -> Generator[Event, None, None]:
        if trainer.progress.epoch == epochs:
            raise KeyboardInterrupt
        yield from epoch(trainer)

    monkeypatch.setattr(Trainer, "epoch", stopped)
    data, model = make_data(tmp_path / "data"), tmp_path / "m.safetensors"
    train = ("train", "--data", data, "--out", model, "--config", settings)
    code, _, err = prosma(*train)
    assert code == 130
    kept, last = err.splitlines()[-2:]
    assert last == "Stopped."
    if not epochs:
        assert kept == "No epoch was finished, so that nothing is kept. Run the command again to start anew."
        return
    assert kept.startswith("Epoch 1 is kept.")
    monkeypatch.setattr(Trainer, "epoch", epoch)
    assert prosma(*kept.rpartition("prosma ")[2].split())[0] == 0


def test_train_takes_pairs_of_files_and_says_before_and_after(
    prosma: Prosma, make_data: Make, settings: Path, tmp_path: Path
) -> None:
    data, model, tuned = make_data(tmp_path / "data"), tmp_path / "m.safetensors", tmp_path / "tuned.safetensors"
    pairs = [w for i in range(2) for w in ("--pair", *(data / p / f"case_{i}.png" for p in ("images", "labels")))]
    code, _, err = prosma("train", *pairs, "--out", model, "--config", settings, "--sparse", "--background", 7)
    assert code == 2
    assert "no voxel is painted 7" in err
    meaning = ("--annotated-slices", "--ignore", 9)
    code, said, err = prosma("train", *pairs, "--out", model, "--config", settings, *meaning)
    assert code == 0
    labels = yaml.safe_load((tmp_path / "m.prosma" / "run.yaml").read_text())["labels"]
    assert (labels["zero"], labels["ignore"]) == ("annotated_slices", 9)
    assert "the Dice shown is training Dice" in err
    assert "Before and after" not in said
    for i in (2, 3):  # of four, one is held out
        pairs += ["--pair", *(data / p / f"case_{i}.png" for p in ("images", "labels"))]
    code, said, _ = prosma("train", *pairs, "--init", model, "--out", tuned, "--config", settings)
    assert code == 0
    assert re.search(r"Before and after: class 1 (got worse: )?[01]\.\d\d -> [01]\.\d\d", said)
    code, said, err = prosma("train", "--out", tuned, "--resume", "--more-epochs", 1)
    assert code == 0
    assert "Resuming after epoch 2 of 3" in err
    assert "Before and after: class 1" in said


def test_fine_tuning_says_which_weights_are_loaded(
    prosma: Prosma, make_data: Make, settings: Path, model: Path, tmp_path: Path
) -> None:
    data = make_data(tmp_path / "data")
    out = tmp_path / "tuned.safetensors"
    code, _, err = prosma("train", "--data", data, "--out", out, "--config", settings, "--init", model)
    assert code == 0
    assert "weights loaded" in err


def test_models_list_shows_name_classes_and_license(
    prosma: Prosma, make_model: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prosma_core.io.bundle.PRETRAINED", tmp_path)
    code, out, _ = prosma("models", "list")
    assert (code, "No models are shipped" in out) == (0, True)
    make_model(tmp_path / "liver-ct.safetensors", 3, ("CT",), (0, 4))
    code, out, _ = prosma("models", "list")
    assert code == 0
    for cell in ("liver-ct", "3D", "CT", "class 4", "license", "not validated"):
        assert cell in out


def test_models_list_is_grouped_and_sorted_for_a_scan(prosma: Prosma, tmp_path: Path) -> None:
    code, out, _ = prosma("models", "list")
    headings = ("MRI", "Ultrasound", "Synthetic")
    assert code == 0
    assert [out.index(f" {name} ") for name in headings] == sorted(out.index(f" {name} ") for name in headings)
    picture = tmp_path / "x.png"
    Image.fromarray(pixels(60, 70)).convert("L").save(picture)
    code, out, _ = prosma("models", "list", "--for", picture)
    table, _, said = out.partition("hippocampus-mri: ")
    assert code == 0
    assert table.index(" Ultrasound ") < table.index(" MRI ") < table.index(" Synthetic ")
    volumes = [name for name, path in shipped_models().items() if read_header(path).model.dims == 3]
    assert table.count("cannot take it") == len(volumes) >= 2
    assert "The model is 3D, the image 2D" in said
    code, _, err = prosma("models", "list", "--for", tmp_path / "none.png")
    assert (code, "does not exist" in err) == (2, True)


def test_models_list_calls_only_held_out_dice_validation(prosma: Prosma) -> None:
    lines = prosma("models", "list")[1]
    assert "val. Dice" not in lines
    assert re.search("phantoms +│", lines)


def test_models_list_cuts_nothing_off_and_names_a_few_of_many_classes(
    prosma: Prosma, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header, weights = load_bundle(find_model("phantom-3d"))
    classes = [header.classes[0]]
    names = ["corpus callosum", "hippocampus", *(f"tissue {n}" for n in range(6))]
    classes += [header.classes[1].replace(value=n, name=name) for n, name in enumerate(names, 1)]
    many = header.replace(
        name="nuclei-fluorescence",
        classes=tuple(classes),
        model=header.model.replace(num_classes=9),
        licence="CC-BY-SA-4.0",
        evaluation=None,
        training={},
    )
    path = tmp_path / "nuclei-fluorescence.safetensors"
    save_bundle(path, many, weights)
    monkeypatch.setattr("prosma_core.io.bundle.shipped_models", lambda: {"nuclei-fluorescence": path})
    picture = save_png(tmp_path / "x.png")
    for more in ((), ("--for", picture)):
        table = prosma("models", "list", *more)[1].partition("nuclei-fluorescence: ")[0]
        assert "…" not in table
        assert len({len(line) for line in table.splitlines()}) == 1
        assert {"hippocampus,", "callosum,", "CC-BY-SA-4.0", "5"} <= set(table.split())
        assert "and 5 more" in " ".join(word for word in table.split() if word != "│")


# ---------------------------------------------------------------- names of results


def test_a_nifti_keeps_its_name_and_header(prosma: Prosma, volume_model: Path, tmp_path: Path) -> None:
    source = save_nifti(tmp_path / "in" / "case.1.nii.gz", affine=np.diag([-1.0, -2.0, 3.0, 1.0]))
    assert prosma("segment", source, "--model", volume_model, "--out", tmp_path / "out")[0] == 0
    assert leftovers(tmp_path / "out") == ["case.1.nii.gz"]
    np.testing.assert_array_equal(nib.load(tmp_path / "out/case.1.nii.gz").affine, nib.load(source).affine)


def test_a_picture_becomes_class_numbers(prosma: Prosma, tmp_path: Path, make_model: Make, picture: Path) -> None:
    model = make_model(tmp_path / "m.safetensors", values=(0, 7))
    Image.fromarray(pixels(20, 22)).save(tmp_path / "in" / "photo.jpg")
    assert prosma("segment", tmp_path / "in", "--model", model, "--out", tmp_path / "out")[0] == 0
    assert sorted(leftovers(tmp_path / "out")) == ["photo.png", "x.png"]
    values = np.asarray(Image.open(tmp_path / "out/x.png"))
    assert values.shape == (20, 22)
    assert set(np.unique(values)) == {0, 7}


@pytest.mark.parametrize("name", ["a.zarr", "a.ome.zarr", "a.tif", "a.ome.tif"])
def test_other_formats_stay_what_they_are(prosma: Prosma, volume_model: Path, tmp_path: Path, name: str) -> None:
    source = tmp_path / "in" / name
    source.parent.mkdir()
    write_image(source, pixels(9, 18, 17), array_spec((9, 18, 17), "zyx", (2.0, 0.5, 0.5), "um"))
    assert prosma("segment", source, "--model", volume_model, "--out", tmp_path / "out")[0] == 0
    assert [p.name for p in (tmp_path / "out").iterdir()] == [name]
    before, after = read_image(source).spec, read_image(tmp_path / "out" / name).spec
    assert (after.axes, after.shape, after.spacing, after.unit) == (before.axes, before.shape, before.spacing, "um")


@pytest.mark.parametrize("name", ["result.png", "deep/folder/result.tif", "result.zarr"])
def test_with_one_input_out_may_be_a_file_name(
    prosma: Prosma, model: Path, picture: Path, tmp_path: Path, name: str
) -> None:
    out = tmp_path / name
    for more in ((), ("--overwrite",)):
        assert prosma("segment", picture, "--model", model, "--out", out, *more)[0] == 0
    assert read_image(out).spec.spatial_shape == (20, 22)
    assert [p.name for p in out.parent.glob("result*")] == [Path(name).name]


def test_a_file_name_for_several_inputs_is_refused(prosma: Prosma, model: Path, picture: Path, tmp_path: Path) -> None:
    save_png(tmp_path / "in" / "y.png")
    result = prosma("segment", tmp_path / "in", "--model", model, "--out", tmp_path / "one.png")
    refused(result, "is a file name, but there are 2 scans")
    assert not (tmp_path / "one.png").exists()


def test_extras_lie_beside_the_labels(prosma: Prosma, model: Path, picture: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert prosma("segment", picture, "--model", model, "--out", out, "--probabilities", "--entropy")[0] == 0
    assert sorted(leftovers(out)) == ["x.png", "x_entropy.tif", "x_probabilities.tif"]
    assert tifffile.imread(out / "x_probabilities.tif").sum(0) == pytest.approx(1, abs=1e-5)


def test_objects_are_numbered_beside_the_labels(prosma: Prosma, model: Path, picture: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ("segment", picture, "--model", model, "--out", out, "--threshold", "0.7", "--min-size", "3", "--objects")
    code, _, err = prosma(*command)
    assert code == 0
    assert sorted(leftovers(out)) == ["x.png", "x_objects.tif"]
    labels, objects = read_image(out / "x.png").data, read_image(out / "x_objects.tif").data
    pieces, count = ndimage.label(labels, np.ones((3, 3)))
    assert count > 1
    assert np.array_equal(objects, pieces)
    assert np.bincount(pieces.ravel())[1:].min() >= 3
    assert f"{count} objects: class 1 {count}." in err
    assert '"threshold":0.7' in read_notes(out / "x_objects.tif")["settings"]
    refused(prosma(*command), "x.png exists already")
    (out / "x.png").unlink()
    refused(prosma(*command), "x_objects.tif exists already")


@pytest.mark.parametrize(("option", "value"), [("--threshold", "1"), ("--min-size", "-3")])
def test_a_threshold_or_size_out_of_bounds_is_refused(
    option: str, value: str, prosma: Prosma, model: Path, picture: Path, tmp_path: Path
) -> None:
    name = option[2:].replace("-", "_")
    refused(prosma("segment", picture, "--model", model, "--out", tmp_path / "out", option, value), f"{name}: must be ")
    assert leftovers(tmp_path / "out") == []


def test_a_region_gets_the_labels_it_has_in_the_whole_scan(prosma: Prosma, make_model: Make, tmp_path: Path) -> None:
    model, source = make_model(tmp_path / "m.safetensors", values=(0, 7)), tmp_path / "a.tif"
    write_image(source, pixels(6, 30, 31), array_spec((6, 30, 31), "zyx"))
    command = ("segment", source, "--model", model, "--slice-axis", "y")
    assert prosma(*command, "--out", tmp_path / "whole.tif")[0] == 0
    code, _, err = prosma(*command, "--out", tmp_path / "part.tif", "--region", "0:6, 4:5, 3:14")
    assert code == 0
    assert "Only y 4 of 0-29, x 3-13 of 0-30 gets labels; computed for it: 1 of 30 slices, 2 of 3 tiles of each." in err
    expected = np.zeros((6, 30, 31), np.uint8)
    expected[:, 4, 3:14] = tifffile.imread(tmp_path / "whole.tif")[:, 4, 3:14]
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "part.tif"), expected)
    assert expected.any()


def test_a_region_outside_the_scan_is_refused(prosma: Prosma, model: Path, picture: Path, tmp_path: Path) -> None:
    result = prosma("segment", picture, "--model", model, "--out", tmp_path / "out", "--region", "0:20,0:23")
    refused(result, "The region 0:20,0:23", "yx 20x22", "outside along x", "within 0:20,0:22")
    assert leftovers(tmp_path / "out") == []


def test_numbered_files_are_channels_only_for_a_model_with_as_many(
    prosma: Prosma, model: Path, make_model: Make, tmp_path: Path
) -> None:
    for n in range(2):
        save_png(tmp_path / "in" / f"x_{n:04d}.png")
    two = make_model(tmp_path / "two.safetensors", 2, ("a", "b"))
    assert prosma("segment", tmp_path / "in", "--model", two, "--out", tmp_path / "two")[0] == 0
    assert leftovers(tmp_path / "two") == ["x.png"]
    assert prosma("segment", tmp_path / "in", "--model", model, "--out", tmp_path / "one")[0] == 0
    assert sorted(leftovers(tmp_path / "one")) == ["x_0000.png", "x_0001.png"]
    save_png(tmp_path / "in" / "x_0002.png")
    result = prosma("segment", tmp_path / "in", "--model", two, "--out", tmp_path / "three")
    refused(result, "3 of 3 scans", "The scan has 1 channel, the model takes 2 (a, b)")


def test_color_pictures_may_have_numbers_as_names(prosma: Prosma, make_model: Make, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for n in (0, 7, 8, 9):
        Image.fromarray(pixels(20, 22, 3)).save(tmp_path / "in" / f"img_{n:04d}.png")
    model = make_model(tmp_path / "m.safetensors", 2, ("red", "green", "blue"))
    assert prosma("segment", tmp_path / "in", "--model", model, "--out", tmp_path / "out")[0] == 0
    assert len(leftovers(tmp_path / "out")) == 4


# ---------------------------------------------------------------- nothing is lost


def test_results_are_not_overwritten_unless_asked(prosma: Prosma, model: Path, picture: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "x.png").write_text("mine")
    segment = ("segment", picture, "--model", model, "--out", out)
    for overwrite in ((), ("--overwrite",)):
        assert "--overwrite" not in refused(prosma(*segment, *overwrite), "x.png exists already", "never replaced")
        assert (out / "x.png").read_text() == "mine"
    (out / "x.png").unlink()
    assert prosma(*segment)[0] == 0
    refused(prosma(*segment), "x.png exists already", "add --overwrite")
    assert prosma(*segment, "--overwrite")[0] == 0
    assert read_image(out / "x.png").spec.shape == (20, 22)


def test_an_existing_extra_result_stops_it_as_well(prosma: Prosma, model: Path, picture: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "x_entropy.tif").write_text("mine")
    refused(prosma("segment", picture, "--model", model, "--out", out, "--entropy"), "x_entropy.tif exists already")
    assert leftovers(out) == ["x_entropy.tif"]


@pytest.mark.parametrize("as_file", [True, False])
def test_a_scan_is_never_replaced_by_its_result(prosma: Prosma, model: Path, picture: Path, as_file: bool) -> None:
    before = picture.read_bytes()
    out = picture if as_file else picture.parent
    refused(prosma("segment", picture, "--model", model, "--out", out, "--overwrite"), "replace the input")
    assert picture.read_bytes() == before


def test_no_input_of_the_command_is_replaced_held_or_written_into(
    prosma: Prosma, make_model: Make, tmp_path: Path
) -> None:
    model, out = make_model(tmp_path / "m.safetensors"), tmp_path / "exp.zarr"
    out.mkdir()
    write_image(out / "raw.zarr", pixels(20, 22), array_spec((20, 22), "yx"))
    before = sorted(tmp_path.rglob("*"))
    for target, reason in (
        (out, "holds the input"),
        (out / "raw.zarr", "replace the input"),
        (out / "raw.zarr" / "results", "lies inside the input"),
        (out / "raw.zarr" / "results" / "y.zarr", "lies inside the input"),
    ):
        for overwrite in ((), ("--overwrite",)):
            said = refused(prosma("segment", out / "raw.zarr", "--model", model, "--out", target, *overwrite), reason)
            assert "--overwrite" not in said
            assert sorted(tmp_path.rglob("*")) == before
    scans = tmp_path / "scans"
    Image.fromarray(pixels(20, 22)).save((scans.mkdir(), scans / "b.jpg")[1])
    Image.fromarray(pixels(20, 22)).save(scans / "b.png")  # the result of the other would be its place
    Image.fromarray(pixels(20, 22)).save(scans / "c.jpg")
    content = (scans / "b.png").read_bytes()
    result = prosma("segment", scans, "--model", model, "--out", scans, "--overwrite")
    refused(result, "2 of 3 scans", "b.jpg: The result would replace the input", codes=(3,))
    assert (scans / "b.png").read_bytes() == content
    assert read_image(scans / "c.png").spec.shape == (20, 22)


def test_evaluate_writes_over_no_input_and_over_nothing_else(
    prosma: Prosma, make_model: Make, make_data: Make, tmp_path: Path
) -> None:
    model, data = make_model(tmp_path / "m.safetensors"), make_data(tmp_path / "data", count=2)
    (data / "splits.json").write_text('{"train": ["case_0"], "val": ["case_1"]}')
    evaluate = ("evaluate", "--model", model, "--data", data, "--json")
    refused(prosma(*evaluate, data / "splits.json"), "replace the input")
    refused(prosma(*evaluate, data / "labels" / "case_0.png"), "replace the input")
    refused(prosma(*evaluate, model), "replace the input")
    (tmp_path / "mine.json").write_text('{"mine": 1}')
    refused(prosma(*evaluate, tmp_path / "mine.json"), "never replaced")
    assert (tmp_path / "mine.json").read_text() == '{"mine": 1}'
    for _ in range(2):  # its own earlier report is replaced
        assert prosma(*evaluate, tmp_path / "report.json")[0] == 0


def test_training_on_top_of_its_start_model_is_refused_before_anything_is_removed(
    prosma: Prosma, make_model: Make, make_data: Make, tmp_path: Path
) -> None:
    model, data = make_model(tmp_path / "m.safetensors"), make_data(tmp_path / "data", count=2)
    content = model.read_bytes()
    train = ("train", "--data", data, "--init", model, "--out", model)
    for overwrite in ((), ("--overwrite",)):
        assert "--overwrite" not in refused(prosma(*train, *overwrite), "replace the input")
    assert model.read_bytes() == content
    assert not (tmp_path / "m.prosma").exists()


def test_two_scans_with_one_result_name_are_told(prosma: Prosma, model: Path, picture: Path, tmp_path: Path) -> None:
    Image.fromarray(pixels(20, 22)).save(picture.with_suffix(".jpg"))
    result = prosma("segment", picture.parent, "--model", model, "--out", tmp_path / "out")
    refused(result, "1 of 2 scans", "would both be written to", codes=(3,))


def test_one_bad_scan_does_not_stop_the_others(prosma: Prosma, model: Path, tmp_path: Path) -> None:
    for name in "abc":
        save_png(tmp_path / "in" / f"{name}.png")
    (tmp_path / "in" / "b.png").write_bytes(b"")
    result = prosma("segment", tmp_path / "in", "--model", model, "--out", tmp_path / "out")
    message = refused(result, "1 of 3 scans could not be segmented", "b.png", codes=(3,))
    assert result[2].endswith(message)
    assert sorted(leftovers(tmp_path / "out")) == ["a.png", "c.png"]


# ---------------------------------------------------------------- bad input


def truncated(path: Path) -> Path:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return path


def with_value(path: Path, value: float) -> Path:
    data = pixels(18, 17, 9).astype(np.float32)
    data[3, 4, 5] = value
    return save_nifti(path, data)


def zero_axis(path: Path) -> Path:
    save_nifti(path)
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[44:46] = (0).to_bytes(2, "little")  # dim[2]
    path.write_bytes(gzip.compress(bytes(raw)))
    return path


def written(path: Path, content: bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


BAD_SCANS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda p: p / "in/no.nii.gz", "no.nii.gz"),
    "empty": (lambda p: written(p / "in/s.nii.gz", b""), "empty"),
    "no image": (lambda p: written(p / "in/s.nii.gz", b"hello" * 99), "s.nii.gz"),
    "truncated nifti": (lambda p: truncated(save_nifti(p / "in/s.nii.gz")), "damaged"),
    "truncated plain nifti": (lambda p: truncated(save_nifti(p / "in/s.nii")), "damaged"),
    "truncated png": (lambda p: truncated(save_png(p / "in/s.png")), "damaged"),
    "truncated tiff": (lambda p: truncated(tiff(p / "in/s.tif", "ZYX")), "damaged"),
    "NaN": (lambda p: with_value(p / "in/s.nii.gz", np.nan), "Of 2754 voxels, 1 is NaN or infinite"),
    "infinity": (lambda p: with_value(p / "in/s.nii.gz", np.inf), "Of 2754 voxels, 1 is NaN or infinite"),
    "constant": (lambda p: save_nifti(p / "in/s.nii.gz", np.full((9, 9, 9), 5.0, np.float32)), "has the value 5"),
    "zero axis": (lambda p: zero_axis(p / "in/s.nii.gz"), "axis"),
    "unknown axes": (lambda p: tiff(p / "in/s.tif", "QRYX"), "--axes"),
    "channels": (lambda p: tiff(p / "in/s.tif", "ZCYX"), "The scan has 2 channels, the model takes 1 (image)"),
    "2D for 3D": (lambda p: save_png(p / "in/s.png"), "The model is 3D, the image 2D"),
    "no format": (lambda p: written(p / "in/s.docx", b"x"), "s.docx"),
    "empty folder": (lambda p: written(p / "in/s.docx", b"x").parent, "holds no scan"),
}


def tiff(path: Path, axes: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    shape = {4: (3, 2, 20, 22), 3: (9, 20, 22)}[len(axes)]
    tifffile.imwrite(path, pixels(*shape), metadata={"axes": axes}, photometric="minisblack")
    return path


@pytest.mark.parametrize("kind", list(BAD_SCANS))
def test_a_bad_scan_gives_one_clear_error_and_no_file(
    prosma: Prosma, volume_model: Path, tmp_path: Path, kind: str
) -> None:
    make, fact = BAD_SCANS[kind]
    result = prosma("segment", make(tmp_path), "--model", volume_model, "--out", tmp_path / "out", "--probabilities")
    refused(result, fact)
    assert leftovers(tmp_path / "out") == []


@pytest.mark.parametrize(("name", "said"), [("r.png", "a PNG holds one"), ("r.jpg", "a JPEG changes values")])
def test_a_result_format_that_cannot_hold_it_is_refused_before_the_work(
    prosma: Prosma, volume_model: Path, tmp_path: Path, name: str, said: str
) -> None:
    scan = save_nifti(tmp_path / "in/s.nii.gz")
    out = tmp_path / "out" / name
    refused(prosma("segment", scan, "--model", volume_model, "--out", out, "--probabilities"), said)
    assert leftovers(out.parent) == []


def altered(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[-9] ^= 1
    path.write_bytes(whole)


BAD_MODELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda p: p.unlink(), "There is no model"),
    "empty": (lambda p: p.write_bytes(b""), "is empty"),
    "truncated": (truncated, "truncated"),
    "altered": (altered, "was altered"),
    "newer": (lambda p: newer(p), "Install a newer napari-prosma"),
    "pickle": (lambda p: p.write_bytes(pickle.dumps({"a": [1.0] * 100})), "pickle"),
}


def newer(path: Path) -> None:
    text = read_header(path).model_dump_json().replace('"schema_version":1', '"schema_version":2')
    digest = hashlib.sha256(text.encode()).hexdigest()
    path.write_bytes(save(load(path.read_bytes()), {"prosma": text, "prosma_sha256": digest}))


@pytest.mark.parametrize("kind", list(BAD_MODELS))
def test_a_bad_model_is_refused_by_every_verb(
    prosma: Prosma, model: Path, picture: Path, make_data: Make, tmp_path: Path, kind: str
) -> None:
    spoil, fact = BAD_MODELS[kind]
    spoil(model)
    data, out = make_data(tmp_path / "data", 2), tmp_path / "out"
    refused(prosma("segment", picture, "--model", model, "--out", out), fact)
    refused(prosma("evaluate", "--model", model, "--data", data, "--json", out), fact)
    refused(prosma("models", "info", model), fact)
    refused(prosma("train", "--data", data, "--out", tmp_path / "n.safetensors", "--init", model), fact)
    assert not out.exists()
    assert not list(tmp_path.glob("n.*"))


def spoil_grid(data: Path) -> None:
    Image.fromarray(pixels(32, 31)).save(data / "images/case_1.png")


def spoil_empty(data: Path) -> None:
    (data / "images/case_1.png").write_bytes(b"")


def spoil_constant(data: Path) -> None:
    Image.fromarray(np.full((32, 32), 9, np.uint8)).save(data / "images/case_1.png")


def spoil_labels(data: Path) -> None:
    Image.fromarray(pixels(32, 32) % 9).save(data / "labels/case_1.png")


def spoil_nan(data: Path) -> None:
    (data / "images/case_1.png").unlink()
    values = pixels(32, 32).astype(np.float32)
    values[3, 4] = np.nan
    tifffile.imwrite(data / "images/case_1.tif", values)


def spoil_pair(data: Path) -> None:
    (data / "labels/case_1.png").unlink()


BAD_DATA: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "grids": (spoil_grid, ("images/case_1.png", "labels/case_1.png", "(32, 31)", "(32, 32)", "affines")),
    "empty": (spoil_empty, ("case_1.png", "empty")),
    "constant": (spoil_constant, ("case_1", "has the value 9")),
    "labels": (spoil_labels, ("Labels of case_1 hold", "none of the classes [0, 1]")),
    "NaN": (spoil_nan, ("case_1", "Of 1024 voxels, 1 is NaN or infinite")),
    "pair": (spoil_pair, ("'case_1' has no label",)),
}


@pytest.mark.parametrize("verb", ["train", "evaluate"])
@pytest.mark.parametrize("kind", list(BAD_DATA))
def test_a_bad_case_is_named(
    prosma: Prosma, model: Path, make_data: Make, settings: Path, tmp_path: Path, verb: str, kind: str
) -> None:
    spoil, facts = BAD_DATA[kind]
    data = make_data(tmp_path / "data", 3)
    spoil(data)
    settings.write_text(yaml.safe_dump({**TINY, "class_names": {0: "background", 1: "lesion"}}))
    out = tmp_path / "out" / "new.safetensors"
    out.parent.mkdir()
    train = ("train", "--data", data, "--out", out, "--config", settings)
    evaluate = ("evaluate", "--model", model, "--data", data, "--json", out.with_suffix(".json"))
    if verb == "train" or kind == "pair":
        refused(prosma(*(train if verb == "train" else evaluate)), *facts)
        assert leftovers(out.parent) == []
        return
    code, _, err = prosma(*evaluate)  # goes on, and reports what could not be measured
    assert code == 3
    assert "Traceback" not in err
    assert [fact for fact in facts if fact not in err] == []
    assert [Path(name).stem for name in json.loads(out.with_suffix(".json").read_text())["failed"]] == ["case_1"]


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        (("train", "--out", "m.safetensors"), "No --data was given"),
        (("train", "--data", "d"), "No --out was given"),
        (("train", "--pair", "a.png", "--out", "m.safetensors"), "--pair a.png needs two files"),
        (("train", "--out", "m.safetensors", "--pair", "a.png"), "--pair a.png needs two files"),
        (("train", "--pair", "a.png", "b.png", "--out", "m.safetensors"), "a.png of the pair"),
        (("train", "--data", "d", "--out", "m.safetensors", "--sparse", "--annotated-slices"), "different meanings"),
        (("train", "--data", "d", "--out", "m.safetensors", "--ignore", "2", "--background", "2"), "cannot both be 2"),
        (("train", "--data", "d", "--out", "m.safetensors", "--more-epochs", "2"), "give it with --resume"),
        (("train", "--data", "d", "--out", "m.pt"), "must be a file name that ends in .safetensors"),
        (("train", "--data", "d", "--out", "m.safetensors", "--preset", "fast"), "use one of quick, balanced, best"),
        (("train", "--data", "d", "--out", "m.safetensors", "--gate", "magic"), "gate.kind"),
        (("train", "--data", "d", "--out", "m.safetensors", "--device", "abacus"), "device"),
        (
            ("train", "--data", "d", "--out", "m.safetensors", "--config", "no.yaml"),
            "settings from no.yaml",
        ),
        (("train", "--data", "d", "--out", "m.safetensors", "--seed", "-1"), "training.seed"),
        (("train", "--data", "d", "--out", "m.safetensors"), "d is not a data folder"),
        (("segment", "a.png", "--model", "no-such", "--out", "o"), "There is no model 'no-such'"),
        (("segment", "a.png", "--model", "MODEL", "--out", "o", "--overlap", "2"), "overlap"),
        (("segment", "a.png", "--model", "MODEL", "--out", "o", "--overlap", "nan"), "overlap"),
        (("segment", "a.png", "--model", "MODEL", "--out", "o", "--device", "abacus"), "abacus"),
        (("segment", "a.png", "--model", "MODEL", "--out", "o", "--region", "1:2,x"), "'x' is not START:STOP"),
        (("segment", "a.png", "--model", "MODEL", "--out", "o", "--region", "-1:2,0:5"), "'-1:2' is not START:STOP"),
        (("segment", "a.png", "--model", "MODEL", "--out", "o", "--slice-axis", "q"), "slice_axis"),
        (("segment", "a.png", "--model", "MODEL", "--out", "MODEL/o"), "cannot be made"),
        (("evaluate", "--model", "MODEL", "--data", "nowhere"), "nowhere is not a data folder"),
        (("evaluate", "--model", "MODEL", "--data", "DATA", "--split", "tset"), "no split 'tset'"),
        (("evaluate", "--model", "MODEL", "--data", "DATA", "--json", "no/where.json"), "does not exist"),
        (("models", "info", "no-such"), "There is no model 'no-such'"),
    ],
)
def test_settings_that_cannot_work_are_named(
    prosma: Prosma,
    model: Path,
    make_data: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    fact: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    if "DATA" in arguments:
        make_data(tmp_path / "DATA", 2)
    refused(prosma(*(a.replace("MODEL", str(model)) for a in arguments)), fact)
    assert not list(tmp_path.glob("m.*"))


@pytest.mark.parametrize("text", ["- a\n- b", "training: {epochs: many}", "trainig: {}", "a: [", "\x00"])
def test_a_settings_file_that_cannot_work_is_named(prosma: Prosma, make_data: Make, tmp_path: Path, text: str) -> None:
    (tmp_path / "s.yaml").write_text(text)
    out = tmp_path / "m.safetensors"
    data = make_data(tmp_path / "data", 2)
    refused(prosma("train", "--data", data, "--out", out, "--config", tmp_path / "s.yaml"), "s.yaml")
    assert not list(tmp_path.glob("m.*"))


# ---------------------------------------------------------------- as a process of its own


@pytest.mark.slow
def test_a_process_reports_a_bad_file_with_an_exit_code_of_its_own(model: Path, tmp_path: Path) -> None:
    save_png(tmp_path / "in" / "a.png")
    tiff(tmp_path / "in" / "b.tif", "ZYX")
    truncated(tmp_path / "in" / "b.tif")
    done = run_python("segment", tmp_path / "in", "--model", model, "--out", tmp_path / "out", "--device", "cpu")
    refused((done.returncode, done.stdout, done.stderr), "1 of 2 scans", "b.tif", codes=(3,))
    assert leftovers(tmp_path / "out") == ["a.png"]
    lines = done.stderr.splitlines()
    assert lines[0].startswith("Computing on CPU")
    assert not re.search(r"\x1b|\r|[━╸]", done.stderr)
    assert len(lines) == len({*lines})
    assert done.stdout == ""


def test_names_are_shown_as_they_are(prosma: Prosma, make_model: Make, tmp_path: Path, make_data: Make) -> None:
    """Square brackets in names of files and classes are no markup."""
    data = make_data(tmp_path / "data", 2)
    for folder in ("images", "labels"):
        (data / folder / "case_0.png").rename(data / folder / "[bold]a[%].png")
    model = make_model(tmp_path / "[m].safetensors")
    code, table, err = prosma("evaluate", "--model", model, "--data", data)
    assert code == 0
    assert "[bold]a[%]" in table
    assert "[bold]a[%]" in err
    code, _, err = prosma("segment", data / "images", "--model", model, "--out", tmp_path / "out[/x]")
    assert code == 0
    assert "out[/x]" in err


def test_training_names_the_scan_of_a_voxel_size_that_cannot_be_right(
    prosma: Prosma, tmp_path: Path, settings: Path
) -> None:
    for number in range(4):
        spec = array_spec((40, 40), "yx", (0.001 if number == 2 else 1.0,) * 2, "mm")
        for folder in ("images", "labels"):
            (tmp_path / "d" / folder).mkdir(parents=True, exist_ok=True)
            write_image(tmp_path / "d" / folder / f"case{number}.ome.tif", pixels(40, 40) // 128, spec)
    result = prosma("train", "--data", tmp_path / "d", "--out", tmp_path / "m.safetensors", "--config", settings)
    refused(result, "case2: This scan (40 x 40 pixels of 0.001 x 0.001 mm) would have 1 x 1 pixels for the model")
