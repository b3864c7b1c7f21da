"""What the command line shows of stored studies, and its exit codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sweep.__main__ import main
from sweep.config import StudyConfig
from sweep.errors import StudyNotFound
from sweep.objectives import Difference, Table, make_table
from sweep.report import (
    TABLE_WIDTH,
    find_study,
    render_front,
    render_noise,
    render_table,
    render_times,
    show_difference,
    study_results,
    study_trials,
    trial_states,
)
from sweep.space import random_trials
from sweep.store import StudyFolder, locked, study_folder, write_json
from tests.sweep.studies import NUM_PROBLEMS, find, knows, make_study, store_answers, store_checkpoint, store_trial

ROOT = Path(__file__).resolve().parents[2]
# Longer than a line, and with what rich would take for markup.
CAUSE = "the engine did not start: [out] of memory; " + "it held 14 GB, " * 10 + "log: logs/sweep-small-0.log"
pytestmark = pytest.mark.usefixtures("stored")
Capture = pytest.CaptureFixture[str]


def store_study(**changes: Any) -> StudyConfig:
    """A study as its driver writes it down."""
    study = make_study(**changes)
    write_json(study_folder(study.study).config, study.model_dump(mode="json"))
    return study


def fail(study: StudyConfig, name: str, cause: str) -> None:
    record = {"launch": "1", "kind": "EngineFailed", "cause": cause}
    write_json(study_folder(study.study).failure(name), record)


@pytest.fixture
def study() -> StudyConfig:
    """Two baselines, three compressed trials, one failure, the rest not run yet."""
    study = store_study()
    store_trial(study, "alpha/baseline", knows(8, tokens=90))
    store_trial(study, "alpha/rtn-w8-g64-sym", knows(6, tokens=95))
    store_trial(study, "alpha/rtn-w2-g64-sym", knows(1, tokens=10, cut=2))
    store_trial(study, "beta/baseline", knows({"temporal": 6, "arithmetic": 8, "recall": 2}, tokens=80))
    store_trial(study, "beta/magnitude-2:4", knows(5, tokens=120))
    fail(study, "beta/rtn-w2-g64-sym", CAUSE)
    return study


def words(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"[│┃]", line.strip("│┃ \n"))]


def table_lines(text: str) -> dict[str, list[str]]:
    """{MODEL/SCHEME, with ★ on the front: its cells}; a model's name stands in a line of its own."""
    model, found = "", {}
    for line in text.splitlines():
        if "│" in line:
            name, *cells = words(line)
            model = model if any(cells) else name
            if any(cells):
                found[f"★ {model}/{name[2:]}" if name.startswith("★") else f"{model}/{name}"] = cells
    return found


def draw(study: StudyConfig, table: Table) -> str:
    """The table as it stands in a file."""
    console = Console(width=TABLE_WIDTH, color_system=None)
    with console.capture() as captured:
        console.print(render_table(study, table))
    return captured.get()


def test_the_table_front_failures_and_time_are_shown(study: StudyConfig, capsys: Capture) -> None:
    assert main(["pareto"]) == 1  # one trial failed
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("small: 5 trials, ★ = Pareto front")
    lines = table_lines(out)
    assert list(lines)[:2] == ["★ alpha/baseline", "★ alpha/rtn-w8-g64-sym"]
    eight = lines["★ alpha/rtn-w8-g64-sym"]
    assert eight[0].startswith("75.0 ±")
    assert eight[1].startswith("-25.0 [")
    assert eight[1].endswith("] undecided")
    assert eight[2:] == ["75.0", "75.0", "75.0", "75.0", "95", "0.0", "9.37", "0.5"]
    assert lines["alpha/rtn-w2-g64-sym"][6:8] == ["10", "25.0"]
    assert lines["★ beta/baseline"][1:6] == ["-", "100.0", "75.0", "100.0", "25.0"]
    assert list(lines)[-1] == "beta/magnitude-2:4"
    assert f"FAILED beta/rtn-w2-g64-sym: {CAUSE}" in out
    assert "Time: compressing 0 s, starting engines 0 s, answering 0 s\n" in out
    assert "differences: points, paired by question" in out


def test_the_front_is_listed_by_the_first_objective(study: StudyConfig, capsys: Capture) -> None:
    main(["pareto", "small"])
    out = capsys.readouterr().out
    block = out[out.index("Pareto front over accuracy (max), tokens_per_question (min), effective_bits (min)") :]
    assert "recovery of at least 0.5" in block
    shown = re.findall(r"★ (\S+): accuracy ([\d.]+), tokens_per_question", block)
    table = make_table(study, study_results(study, study_folder("small")))
    assert {name for name, _ in shown} == {row.trial.name for row in table.rows if row.on_front}
    values = [float(value) for _, value in shown]
    assert values == sorted(values, reverse=True)
    assert len(values) > 1
    few = store_study(study="fewest", objectives={"tokens_per_question": "min", "accuracy": "max"})
    main(["pareto", few.study])
    out = capsys.readouterr().out
    tokens = [float(value) for value in re.findall(r"tokens_per_question ([\d.]+), accuracy", out)]
    assert tokens == sorted(tokens)
    assert len(tokens) > 1


def test_pareto_as_json_is_the_whole_of_stdout(study: StudyConfig, capsys: Capture) -> None:
    assert main(["pareto", "small", "--json"]) == 1
    out, err = capsys.readouterr()
    assert err == ""
    found = json.loads(out)
    assert found["study"] == "small"
    assert found["objectives"] == study.objectives
    assert list(found["failures"]) == ["beta/rtn-w2-g64-sym"]
    rows = {row["trial"]: row for row in found["trials"]}
    assert found["front"] == [name for name, row in rows.items() if row["on_front"]]
    eight = rows["alpha/rtn-w8-g64-sym"]
    assert (eight["accuracy"], eight["recovery"], eight["tokens_per_question"]) == (0.75, 0.75, 95)
    assert eight["accuracy.recall"] == 0.75
    assert (eight["difference"]["verdict"], eight["difference"]["flips_to_wrong"]) == ("undecided", 4)
    assert (eight["format"], eight["size_source"], eight["num_fallbacks"]) == ("dequantized", "computed", 0)
    assert rows["alpha/rtn-w2-g64-sym"]["outcomes"]["recall"]["truncated"] == 2
    assert rows["alpha/baseline"]["difference"] is None
    assert found["noise_floor"]["alpha"]["value"] == 0
    assert found["states"]["beta/rtn-w2-g64-sym"] == "failed"


def test_the_report_is_the_same_each_time_and_however_the_trials_came(capsys: Capture) -> None:
    names = ["alpha/rtn-w8-g64-sym", "alpha/baseline", "beta/baseline"]
    outputs = []
    for number, order in enumerate([names, names[::-1]]):
        study = store_study(study=f"s{number}", seed=number, store=str(Path("mlruns/store").absolute()))
        for place, name in enumerate(order):
            store_checkpoint(study, find(study, name))
            store_answers(study, find(study, name), knows(6), backwards=bool(number + place % 2))
        for _ in range(2):
            assert main(["pareto", study.study, "--json"]) == 0
            outputs.append(json.loads(capsys.readouterr().out) | {"study": ""})
    assert outputs == [outputs[0]] * 4


def test_without_failures_the_exit_code_is_0(capsys: Capture) -> None:
    study = store_study()
    store_trial(study, "alpha/baseline", knows(8))
    assert main(["pareto"]) == 0
    fail(study, "alpha/baseline", "of an earlier launch, mended since")
    assert main(["pareto"]) == 0
    assert "mended" not in capsys.readouterr().out


def test_a_study_without_any_result_is_an_empty_table(capsys: Capture) -> None:
    store_study()
    assert main(["pareto"]) == 0
    assert "small: 0 trials" in capsys.readouterr().out
    assert main(["pareto", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trials"] == []


def test_pareto_draws_the_picture(study: StudyConfig, capsys: Capture) -> None:
    assert main(["pareto", "small", "--picture", "made/front.png"]) == 1
    assert Path("made/front.png").read_bytes().startswith(b"\x89PNG")


def test_status_tells_each_trials_state_and_how_to_go_on(study: StudyConfig, capsys: Capture) -> None:
    assert main(["status"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[0] == "small: 12 trials: 6 waiting, 5 complete, 1 failed; no driver is at work"
    assert "  complete  alpha/rtn-w8-g64-sym" in lines
    assert "  waiting   beta/rtn-w8-g64-sym" in lines
    assert f"  failed    beta/rtn-w2-g64-sym: {CAUSE}" in lines
    assert lines[-1] == "finish it with: python -m sweep resume small"


def test_status_as_json(study: StudyConfig, capsys: Capture) -> None:
    assert main(["status", "small", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["study"], found["running"]) == ("small", False)
    assert len(found["trials"]) == 12
    assert found["trials"]["alpha/baseline"] == "complete"
    assert found["failures"]["beta/rtn-w2-g64-sym"]["kind"] == "EngineFailed"


def test_status_sees_a_driver_at_work_and_leaves_it_its_lock(study: StudyConfig, capsys: Capture) -> None:
    lock = study_folder("small").path / "lock"
    with locked(lock, wait=False):
        assert main(["status"]) == 0
        out = capsys.readouterr().out
        assert "a driver is at work" in out
        assert "finish it" not in out
    assert main(["status"]) == 0
    with locked(lock, wait=False) as held:
        assert held


def test_an_unknown_study_is_named_with_the_nearest(study: StudyConfig, capsys: Capture) -> None:
    store_study(study="quickstart")
    for command in ("status", "pareto"):
        assert main([command, "quikstart"]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert len(err.splitlines()) == 1
        assert "'quikstart'; the nearest is quickstart" in err
    with pytest.raises(StudyNotFound, match="there are small, quickstart"):
        find_study("zzz")


def test_no_study_at_all(capsys: Capture) -> None:
    assert main(["status"]) == 2
    assert "begin with: python -m sweep launch conf/quickstart.yaml" in capsys.readouterr().err


def test_the_latest_study_is_meant_where_none_is_named() -> None:
    for age, name in enumerate(["newest", "older", "oldest"]):
        config = study_folder(store_study(study=name).study).config
        os.utime(config, (1e9 - age, 1e9 - age))
    assert find_study(None).path.name == "newest"
    assert find_study("oldest").path.name == "oldest"


def test_a_searched_study_has_the_trials_that_were_proposed() -> None:
    study = store_study(search={"algorithm": "tpe", "num_trials": 5})
    folder = study_folder("small")
    assert [trial.name for trial in study_trials(study, folder)] == ["alpha/baseline", "beta/baseline"]
    proposed = ["beta/rtn-w4-g64-sym", "alpha/magnitude-2:4", "beta/rtn-w4-g64-sym"]
    lines = [json.dumps({"launch": "a", "trial": name, "params": {}}) for name in proposed]
    folder.proposals.write_text("\n".join([*lines, '{"launch": "a", "trial": "torn", "params": {}']))
    names = [trial.name for trial in study_trials(study, folder)]
    assert names == ["alpha/baseline", "alpha/magnitude-2:4", "beta/baseline", "beta/rtn-w4-g64-sym"]
    assert set(trial_states(study, folder).values()) == {"waiting"}


def test_a_random_study_has_each_drawn_trial_once() -> None:
    study = store_study(search={"algorithm": "random", "num_trials": 14})
    names = [trial.name for trial in study_trials(study, study_folder("small"))]
    assert len(names) == len(set(names)) == 12
    assert set(names) >= {trial.name for trial in random_trials(study)}


def test_the_noise_floor_of_a_greedy_study_is_not_measured(study: StudyConfig) -> None:
    table = make_table(study, study_results(study, study_folder("small")))
    assert re.search(r"alpha: \+0\.0 \[-[\d.]+, \+[\d.]+\] undecided", render_noise(study, table).plain)
    greedy = store_study(study="greedy", sampling={"max_tokens": 256, "temperature": 0})
    store_trial(greedy, "alpha/baseline", knows(8))
    table = make_table(greedy, study_results(greedy, study_folder("greedy")))
    assert "  alpha: not measured\n" in render_noise(greedy, table).plain


def test_dequantized_trials_are_said_to_have_no_speed(study: StudyConfig) -> None:
    table = make_table(study, study_results(study, study_folder("small")))
    assert "speed is not representative" in render_noise(study, table).plain
    packed = [result for result in study_results(study, study_folder("small")) if result.checkpoint.format == "base"]
    assert "speed is not representative" not in render_noise(study, make_table(study, packed)).plain


def test_prices_have_a_column() -> None:
    study = store_study(usd_per_hour=36, usd_per_hour_date="2026-11-01")
    result = store_trial(study, "alpha/baseline", knows(8, tokens=10))
    for evaluation in result.evaluations:
        write_json(evaluation.folder / "throughput.json", {"tokens_per_s": 500.0})
    store_trial(study, "beta/baseline", knows(8))
    rows = [
        words(line) for line in draw(study, make_table(study, study_results(study, study_folder("small")))).splitlines()
    ]
    assert [row[-1] for row in rows if len(row) > 1] == ["USD/1k q", "0.2000", "-"]


def test_a_trial_without_an_objective_is_named_below_the_front() -> None:
    objectives = {"accuracy": "max", "usd_per_1k_questions": "min"}
    study = store_study(objectives=objectives, usd_per_hour=36, usd_per_hour_date="2026-11-01")
    store_trial(study, "beta/baseline", knows(8))
    table = make_table(study, study_results(study, study_folder("small")))
    assert "off the front for want of usd_per_1k_questions: beta/baseline" in render_front(study, table).plain


def test_no_cell_of_a_wide_table_is_cut() -> None:
    blocks = [{"method": "magnitude", "sparsity": "2:4", "num_bits": 4, "group_size": 64, "symmetric": False}]
    names = ["temporal", "logic", "arithmetic", "recall"]
    study = store_study(space=blocks, benchmarks=[{"name": name} for name in names])
    store_trial(study, "alpha/baseline", knows(8))
    store_trial(study, "alpha/magnitude-2:4-w4-g64-asym", knows(0, tokens=30_000))
    found = make_table(study, study_results(study, study_folder("small")))
    text = draw(study, found)
    assert "…" not in text
    lines = {name.removeprefix("★ "): cells for name, cells in table_lines(text).items()}
    assert {name: cells[1] for name, cells in lines.items()} == {
        row.trial.name: show_difference(row.difference) for row in found.rows
    }


def test_times_are_summed_over_trials(study: StudyConfig) -> None:
    folder: StudyFolder = study_folder("small")
    for name in ("alpha/baseline", "beta/baseline"):
        write_json(folder.timing(name), {"compress_s": 1.0, "engine_s": 20.4, "answer_s": 30.0})
    shown = render_times(study, folder, 75.2)
    assert shown == "Time: compressing 2 s, starting engines 41 s, answering 60 s; this launch 75 s in all"


@pytest.mark.parametrize(
    ("difference", "shown"),
    [
        (None, "-"),
        (Difference(-0.013, -0.03, 0.004, 1, 3, 100, 0.01), "-1.3 [-3.0, +0.4] equal"),
        (Difference(0.1, 0.02, 0.18, 9, 1, 100, 0.01), "+10.0 [+2.0, +18.0] better"),
        (Difference(-0.5, -0.6, -0.4, 0, 50, 100, 0.01), "-50.0 [-60.0, -40.0] worse"),
    ],
)
def test_a_difference_is_shown_in_points(difference: Difference | None, shown: str) -> None:
    assert show_difference(difference) == shown


def test_the_commands_as_processes(study: StudyConfig) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-W", "error:::sweep", "-m", "sweep", *arguments]
        environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(Path.cwd())}
        return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)

    found = run("pareto", "--json")
    assert (found.returncode, found.stderr) == (1, "")
    assert len(json.loads(found.stdout)["trials"]) == 5
    unknown = run("status", "smal")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert unknown.stderr.endswith("holds no study 'smal'; the nearest is small\n")


def test_half_answered_trials_wait(study: StudyConfig) -> None:
    trial = find(study, "beta/rtn-w8-g64-sym")
    store_answers(study, trial, knows(3), limit=2 * NUM_PROBLEMS)
    states = trial_states(study, study_folder("small"))
    assert states[trial.name] == "waiting"
    store_answers(study, trial, knows(3))
    assert trial_states(study, study_folder("small"))[trial.name] == "complete"
