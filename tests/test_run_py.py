from __future__ import annotations

import os
import stat
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

PIN = "torch==9.8.7"
posix_only = pytest.mark.skipif(os.name == "nt", reason="dpkg and apt-get are scripts of a POSIX shell here")


class Commands:
    """Stands in for `subprocess.run`: notes every command and does only what making an environment leaves behind."""

    def __init__(self, project: Path) -> None:
        self.project = project
        self.seen: list[list[str]] = []
        self.failing = ""

    def __call__(self, command: list[str], **_: object) -> SimpleNamespace:
        if command[-1] == "import pip":
            return SimpleNamespace(returncode=0 if self.has_environment() else 1)
        self.seen.append(command)
        if self.failing and self.failing in command:
            return SimpleNamespace(returncode=3)
        if "venv" in command:
            (self.project / ".venv").mkdir(exist_ok=True)
            (self.project / ".venv" / "pyvenv.cfg").write_text("version = 3.11\n")
        return SimpleNamespace(returncode=0)

    def has_environment(self) -> bool:
        return (self.project / ".venv" / "pyvenv.cfg").is_file()

    def of_pip(self) -> list[list[str]]:
        return [command[command.index("install") :] for command in self.seen if "pip" in command]


@pytest.fixture
def project(run_py: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "a folder"
    folder.mkdir()
    (folder / "pyproject.toml").write_text("[project]\n")
    (folder / "constraints.txt").write_text(f"numpy==1.2.3\n{PIN}\n")
    monkeypatch.setattr(run_py, "ROOT", folder)
    monkeypatch.setattr(run_py, "has_screen", lambda: True)
    monkeypatch.setattr(run_py, "add_system_packages", lambda packages: None)
    return folder


@pytest.fixture
def commands(project: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    recorded = Commands(project)
    monkeypatch.setattr(subprocess, "run", recorded)
    return recorded


@pytest.fixture
def fake_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Put a dpkg that knows some packages, and an apt-get that writes down its arguments, first on PATH."""
    folder = tmp_path / "programs"
    folder.mkdir()
    log = tmp_path / "apt-get.txt"
    log.touch()

    def program(name: str, body: str) -> None:
        path = folder / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def make(installed: str) -> Path:
        program("dpkg", f'[ "$2" = "{installed}" ] && echo "Status: install ok installed" || exit 1')
        program("apt-get", f'echo "$@" >> "{log}"')
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        return log

    return make


def test_first_set_up_makes_the_environment_then_torch_alone_then_the_project(
    run_py: ModuleType, commands: Commands
) -> None:
    run_py.set_up()
    assert "venv" in commands.seen[0]
    assert commands.of_pip() == [
        ["install", "-c", "constraints.txt", PIN],
        ["install", "-c", "constraints.txt", "-e", ".[cluster,dev,docs,medical,qt,remote]"],
    ]


def test_second_set_up_does_nothing(run_py: ModuleType, commands: Commands) -> None:
    run_py.set_up()
    commands.seen.clear()
    run_py.set_up()
    assert commands.seen == []


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_changed_dependencies_are_installed_into_the_same_environment(
    run_py: ModuleType, commands: Commands, project: Path, name: str
) -> None:
    run_py.set_up()
    commands.seen.clear()
    with (project / name).open("a") as file:
        file.write("# changed\n")
    run_py.set_up()
    assert len(commands.seen) == len(commands.of_pip()) == 2


def test_environment_whose_python_is_gone_is_made_anew(run_py: ModuleType, commands: Commands, project: Path) -> None:
    run_py.set_up()
    commands.seen.clear()
    (project / ".venv" / "pyvenv.cfg").unlink()
    run_py.set_up()
    assert "venv" in commands.seen[0]
    assert len(commands.of_pip()) == 2


@pytest.mark.parametrize(("failing", "title"), [("venv", "Make the environment"), (PIN, "torch"), ("-e", "its tools")])
def test_failed_step_says_which_and_the_command_and_the_next_call_goes_on(
    run_py: ModuleType, commands: Commands, failing: str, title: str
) -> None:
    commands.failing = failing
    with pytest.raises(SystemExit) as failure:
        run_py.set_up()
    text = str(failure.value.code)
    assert title in text
    assert run_py.as_line(commands.seen[-1]) in text
    assert "call the same again" in text

    commands.failing = ""
    commands.seen.clear()
    run_py.set_up()
    assert len(commands.of_pip()) == 2


def test_missing_torch_version_is_said(run_py: ModuleType, commands: Commands, project: Path) -> None:
    (project / "constraints.txt").write_text("numpy==1.2.3\n")
    with pytest.raises(SystemExit, match=r"constraints\.txt names no torch version"):
        run_py.set_up()


def test_command_that_does_not_exist_is_a_failed_step(run_py: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="Failed: Look"):
        run_py.step("Look", ["no-such-program-anywhere"], "Go on.")
    assert "no-such-program-anywhere" in capfd.readouterr().out


@posix_only
def test_root_installs_only_the_missing_system_packages(
    run_py: ModuleType, fake_programs: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = fake_programs("libhere1")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    run_py.add_system_packages(["libhere1", "libmissing1"])
    assert log.read_text().splitlines() == ["update", "install -y --no-install-recommends libmissing1"]


@posix_only
def test_without_root_the_one_line_to_run_is_printed(
    run_py: ModuleType, fake_programs: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = fake_programs("libhere1")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(SystemExit, match="sudo apt-get install -y --no-install-recommends libmissing1 libother2"):
        run_py.add_system_packages(["libhere1", "libmissing1", "libother2"])
    assert log.read_text() == ""


@posix_only
def test_nothing_is_asked_of_apt_when_all_system_packages_are_there(
    run_py: ModuleType, fake_programs: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = fake_programs("libhere1")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    run_py.add_system_packages(["libhere1"])
    assert log.read_text() == ""


@posix_only
def test_systems_without_dpkg_are_left_alone(
    run_py: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert run_py.add_system_packages(["libmissing1"]) is None


def test_without_a_display_windows_open_on_a_virtual_screen(
    run_py: ModuleType, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_py, "has_screen", lambda: False)
    monkeypatch.setattr(run_py.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert run_py.main(["demo"]) == 0
    assert commands.seen[-1][0] == "xvfb-run"
    assert commands.seen[-1][-2:] == ["--screenshot", "demo.png"]
    assert "xvfb" in run_py.system_packages("test")


def test_with_a_display_the_demo_stays_open(run_py: ModuleType, commands: Commands) -> None:
    assert run_py.main(["demo", "--device", "cpu"]) == 0
    assert commands.seen[-1][1:] == ["-m", "napari_prosma.demo", "--device", "cpu"]
    assert "xvfb" not in run_py.system_packages("demo")


def test_without_a_display_or_a_virtual_one_the_person_is_told(
    run_py: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_py, "has_screen", lambda: False)
    monkeypatch.setattr(run_py.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match="install Xvfb"):
        run_py.on_screen(["python"])


def test_style_needs_no_system_packages(run_py: ModuleType) -> None:
    assert run_py.system_packages("lint") == []


def test_lint_runs_every_check_and_names_those_that_failed(
    run_py: ModuleType, commands: Commands, capfd: pytest.CaptureFixture[str]
) -> None:
    commands.failing = "mypy"
    assert run_py.run_lint([]) == 1
    assert len(commands.seen) == 5
    assert "Failed: mypy." in capfd.readouterr().out


def test_tests_get_the_arguments_and_give_their_exit_code(run_py: ModuleType, commands: Commands) -> None:
    commands.failing = "-x"
    assert run_py.main(["test", "-x", "-k", "two words"]) == 3
    assert commands.seen[-1][-4:] == ["pytest", "-x", "-k", "two words"]


@pytest.mark.parametrize("coverage", [[], ["--cov"]])
def test_all_tests_run_in_two_processes(coverage: list[str], run_py: ModuleType, commands: Commands) -> None:
    assert run_py.main(["test", *coverage]) == 0
    wanted = [
        "--numprocesses=2",
        "--dist=loadfile",
        "--no-loadscope-reorder",
        *coverage,
        *["--cov-report="] * len(coverage),
    ]
    assert commands.seen[-1][-len(wanted) - 1 :] == ["pytest", *wanted]


def test_the_floor_of_the_coverage_is_that_of_branches(root: Path) -> None:
    coverage = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["coverage"]
    assert coverage["run"]["branch"]
    assert coverage["report"]["fail_under"] >= 90


def test_bench_lists_the_scripts_with_their_first_line_and_sets_nothing_up(
    run_py: ModuleType, commands: Commands, project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (project / "benchmarks").mkdir()
    (project / "benchmarks" / "overhead.py").write_text('"""Cost of tiling.\n\nMore.\n"""\n')
    assert run_py.main(["bench"]) == 0
    assert capfd.readouterr().out.split(maxsplit=1) == ["overhead", "Cost of tiling.\n"]
    assert commands.seen == []


def test_bench_runs_the_named_script(run_py: ModuleType, commands: Commands, project: Path) -> None:
    (project / "benchmarks").mkdir()
    (project / "benchmarks" / "overhead.py").touch()
    assert run_py.main(["bench", "overhead", "--fast"]) == 0
    assert commands.seen[-1][1:] == [str(project / "benchmarks" / "overhead.py"), "--fast"]


def test_unknown_benchmark_is_refused_with_the_known_ones(run_py: ModuleType, project: Path) -> None:
    (project / "benchmarks").mkdir()
    (project / "benchmarks" / "overhead.py").touch()
    with pytest.raises(SystemExit, match="no benchmark 'speed'; there are: overhead"):
        run_py.main(["bench", "speed"])


def test_unknown_verb_is_refused_with_the_known_ones(run_py: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_py.main(["tests"]) == 2
    out = capfd.readouterr().out
    assert "no verb 'tests'" in out
    assert all(verb in out for verb in run_py.VERBS)


def test_older_python_gets_a_friendly_text(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = compile((root / "run.py").read_text(encoding="utf-8"), "run.py", "exec")
    monkeypatch.setattr(sys, "version_info", (3, 9, 2))
    with pytest.raises(SystemExit, match=r"needs Python 3\.11 or newer; this is 3\.9"):
        exec(code, {"__name__": "run_py", "__file__": "run.py"})


def test_works_from_another_folder_and_under_a_path_with_spaces(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    copy = folder / "run.py"
    copy.write_bytes((root / "run.py").read_bytes())
    answer = subprocess.run([sys.executable, str(copy), "--help"], cwd=tmp_path, capture_output=True, encoding="utf-8")
    assert answer.returncode == 0
    assert "demo" in answer.stdout
