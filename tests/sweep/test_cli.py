"""The command line: exit codes, what goes to which stream, and what is not imported before the plan stands."""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sweep.__main__ import main
from sweep.errors import EngineFailed, StudyExists, SweepError

pytestmark = pytest.mark.usefixtures("workdir")
ROOT = Path(__file__).resolve().parents[2]
HEAVY = "ray torch vllm mlflow transformers pandas numpy optuna huggingface_hub"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["launch", "study.yaml", "--dry-run"], 0),
        (["launch", "study.yaml", "--dry-run", "engine.engine_kwargs.enforce_eager=true", "--json"], 0),
        (["launch", "study.yaml", "seed=x"], 2),
        (["launch", "--help"], 0),
    ],
)
def test_nothing_heavy_is_imported_before_the_plan_stands(arguments: list[str], code: int) -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from sweep.__main__ import main; code = main({arguments!r});"
        f"print(sorted(set({HEAVY!r}.split()) & set(sys.modules)), code, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stderr.splitlines()[-1] == f"[] {code}"


def test_a_dry_run_writes_nothing(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    assert main(["launch", "study.yaml", "study=other", "--dry-run"]) == 0
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before
    assert capsys.readouterr().out.startswith("other: 12 trials, ")


def test_json_is_all_that_stands_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["launch", "study.yaml", "--json", "--dry-run", "space.1.sparsity=2:4"]) == 0
    assert json.loads(capsys.readouterr().out)["num_trials"] == 10


USAGE = [
    (["launc"], "launch"),
    (["nonsense"], "resume, status"),
    (["launch"], "CONF"),
    (["resume"], "STUDY"),
    (["launch", "study.yaml", "--dryrun"], "--dry-run"),
    (["launch", "study.yaml", "--address"], "argument"),
    (["status", "one", "two"], "two"),
    (["launch", "studi.yaml"], "study.yaml"),
    (["launch", "study.yaml", "modles.0.path=x"], "models"),
    (["launch", "study.yaml", "--dry-run", "space=[]"], "space"),
]


@pytest.mark.parametrize(("arguments", "part"), USAGE, ids=[" ".join(arguments) for arguments, _ in USAGE])
def test_a_wrong_command_ends_in_2_and_at_most_three_lines(
    arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert 1 <= len(err.splitlines()) <= 3
    assert part in err
    assert "Traceback" not in err


@pytest.mark.parametrize("command", ["launch", "resume", "status", "pareto", "ui"])
def test_help_shows_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert f"python -m sweep {command}" in capsys.readouterr().out.replace("Usage: python", "")


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "conf/quickstart.yaml --dry-run" in capsys.readouterr().out


class Calls(list[dict[str, Any]]):
    """What the modules behind the command line were called with; `answer` is returned or raised."""

    answer: int | BaseException = 0

    def __call__(self, *args: object, **kwargs: object) -> int:
        self.append({"args": args, **kwargs})
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    recorded = Calls()
    for module, names in {
        "sweep.launch": ("launch_study", "resume_study"),
        "sweep.report": ("print_status", "print_pareto"),
        "sweep.tracking": ("open_ui",),
    }.items():
        stub = ModuleType(module)
        for name in names:
            setattr(stub, name, recorded)
        monkeypatch.setitem(sys.modules, module, stub)
    return recorded


@pytest.fixture
def weights(workdir: Path) -> None:
    for name in ("alpha", "beta"):
        (workdir / "models" / name / "model.safetensors").write_bytes(b"")


@pytest.mark.usefixtures("weights")
def test_launch_hands_over_the_study_and_its_plan(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    calls.answer = 1
    assert main(["launch", "study.yaml", "seed=5", "--address", "ray://head:1"]) == 1
    (call,) = calls
    study, plan = call["args"]
    assert (study.seed, plan.num_trials) == (5, 12)
    assert (call["config_path"], call["address"], call["as_json"]) == (Path("study.yaml"), "ray://head:1", False)
    assert capsys.readouterr().out.startswith("small: 12 trials")
    assert main(["launch", "study.yaml", "--json"]) == 1
    assert capsys.readouterr().out == ""


def test_launch_refuses_models_without_weights(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["launch", "study.yaml"]) == 2
    assert "models.0.path is models/alpha" in capsys.readouterr().err
    assert calls == []


def test_the_other_commands(calls: Calls) -> None:
    assert main(["resume", "small"]) == 0
    assert main(["status"]) == 0
    assert main(["status", "small", "--json"]) == 0
    assert main(["pareto", "--picture", "front.png"]) == 0
    assert main(["ui"]) == 0
    assert list(calls) == [
        {"args": ("small",), "address": None},
        {"args": (None,), "as_json": False},
        {"args": ("small",), "as_json": True},
        {"args": (None,), "as_json": False, "picture": Path("front.png")},
        {"args": ()},
    ]


@pytest.mark.parametrize(
    ("error", "code"),
    [(StudyExists("small exists with other settings"), 2), (EngineFailed("no engine"), 1), (SweepError("lost"), 1)],
)
def test_errors_of_the_product_are_one_line_and_an_exit_code(
    error: SweepError, code: int, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    calls.answer = error
    assert main(["resume", "small"]) == code
    assert capsys.readouterr().err == f"{error}\n"


def test_ctrl_c_ends_in_130(calls: Calls) -> None:
    calls.answer = KeyboardInterrupt()
    assert main(["ui"]) == 130


def test_a_reader_that_stops_reading_is_no_error(workdir: Path) -> None:
    command = f"{sys.executable} -m sweep launch {ROOT}/conf/grid.yaml --dry-run | head -n 1; exit ${{PIPESTATUS[0]}}"
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(workdir)}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, env=environment)
    assert done.stdout.startswith("grid: 60 trials")
    assert (done.stderr, done.returncode) == ("", 0)
