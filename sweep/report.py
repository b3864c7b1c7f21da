"""A study for human eyes: the table, the front, the noise, where the time went; and its state for scripts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from compress.errors import nearest_name
from sweep.config import StudyConfig
from sweep.errors import StudyNotFound
from sweep.objectives import Difference, Row, Table, TrialState, make_table
from sweep.results import TrialResult, load_result
from sweep.space import TrialConfig, baselines, grid, random_trials
from sweep.store import STUDIES, StudyFolder, locked, read_json, read_proposals, study_folder

TABLE_WIDTH = 170  # where the output is no terminal


def find_study(name: str | None) -> StudyFolder:
    """A study's folder; without a name that of the latest. Raises StudyNotFound with the nearest name."""
    known = sorted(STUDIES.glob("*/study.json"), key=lambda path: path.stat().st_mtime)
    if not known:
        raise StudyNotFound(
            f"{STUDIES.absolute()} holds no study yet; begin with: python -m sweep launch conf/quickstart.yaml"
        )
    names = [path.parent.name for path in known]
    if name is None:
        return study_folder(names[-1])
    if name not in names:
        nearest = nearest_name(name, names)
        hint = f"; the nearest is {nearest}" if nearest else f"; there are {', '.join(names[-5:])}"
        raise StudyNotFound(f"{STUDIES.absolute()} holds no study {name!r}{hint}")
    return study_folder(name)


def load_config(folder: StudyFolder) -> StudyConfig:
    return StudyConfig.model_validate(read_json(folder.config))


def study_trials(study: StudyConfig, folder: StudyFolder) -> list[TrialConfig]:
    """Every trial that the study has or had proposed, once, in the order of the table."""
    match study.search.algorithm:
        case "grid":
            compressed: Sequence[TrialConfig] = grid(study)
        case "random":
            compressed = random_trials(study)
        case _:
            proposed = proposed_names(folder)
            compressed = [trial for trial in grid(study) if trial.name in proposed]
    by_name = {trial.name: trial for base in baselines(study) for trial in [base, *_of_model(compressed, base)]}
    return list(by_name.values())


def study_results(study: StudyConfig, folder: StudyFolder) -> list[TrialResult]:
    """Results of the trials that are complete."""
    loaded = (load_result(study, trial) for trial in study_trials(study, folder))
    return [result for result in loaded if result is not None]


def print_result(study: StudyConfig, folder: StudyFolder, *, as_json: bool, wall_s: float | None) -> int:
    """Print the table, the front, the failures and the time of a study. Returns 1 where a trial failed, else 0."""
    table = make_table(study, study_results(study, folder))
    failures = load_failures(study, folder)
    if as_json:
        print(json.dumps(result_json(study, folder, table, failures), indent=2))
        return 1 if failures else 0
    console = _console()
    for renderable in (render_table(study, table), render_front(study, table), render_noise(study, table)):
        console.print(renderable)
    for name, failure in failures.items():
        console.print(Text(f"FAILED {name}: {failure['cause']}", style="red"), soft_wrap=True)
    console.print(render_times(study, folder, wall_s), highlight=False)
    return 1 if failures else 0


def print_pareto(name: str | None, *, as_json: bool, picture: Path | None = None) -> int:
    """The CLI's `pareto`: the table and the front from the stores, and the picture where one is asked for."""
    folder = find_study(name)
    study = load_config(folder)
    if picture is not None:
        from sweep.pictures import draw_front

        draw_front(study, make_table(study, study_results(study, folder)), picture)
    return print_result(study, folder, as_json=as_json, wall_s=None)


def print_status(name: str | None, *, as_json: bool) -> int:
    """The CLI's `status`: each trial's state, and the cause of each failure."""
    folder = find_study(name)
    study = load_config(folder)
    states = trial_states(study, folder)
    failures = load_failures(study, folder)
    with locked(folder.path / "lock", wait=False) as free:
        running = not free
    if as_json:
        plain = {"study": study.study, "running": running, "trials": states, "failures": failures}
        print(json.dumps(plain, indent=2))
        return 0
    console = _console()
    counts = {state: sum(found is state for found in states.values()) for state in TrialState}
    parts = [f"{count} {state}" for state, count in counts.items() if count]
    driver = "a driver is at work" if running else "no driver is at work"
    console.print(f"{study.study}: {len(states)} trials: {', '.join(parts)}; {driver}", highlight=False)
    for trial, state in states.items():
        cause = f": {failures[trial]['cause']}" if trial in failures else ""
        console.print(Text(f"  {state:9} {trial}{cause}"), soft_wrap=True)
    if not running and counts[TrialState.COMPLETE] < len(states):
        console.print(f"finish it with: python -m sweep resume {study.study}", highlight=False)
    return 0


def trial_states(study: StudyConfig, folder: StudyFolder) -> dict[str, TrialState]:
    """COMPLETE, FAILED or WAITING (running ones too: only their driver knows them) for each trial."""
    failures = load_failures(study, folder)
    states = {}
    for trial in study_trials(study, folder):
        if load_result(study, trial) is not None:
            states[trial.name] = TrialState.COMPLETE
        else:
            states[trial.name] = TrialState.FAILED if trial.name in failures else TrialState.WAITING
    return states


def load_failures(study: StudyConfig, folder: StudyFolder) -> dict[str, dict[str, str]]:
    """{trial: {kind, cause}} of the trials that failed last and have no result."""
    found = {}
    for trial in study_trials(study, folder):
        failure = read_json(folder.failure(trial.name))
        if failure is not None and load_result(study, trial) is None:
            found[trial.name] = {"kind": failure["kind"], "cause": failure["cause"]}
    return found


def proposed_names(folder: StudyFolder) -> set[str]:
    """Names of the trials that a search algorithm has proposed."""
    return {entry["trial"] for entry in read_proposals(folder)}


def render_table(study: StudyConfig, table: Table) -> RichTable:
    """All trials; ★ = on the front."""
    benchmarks = [benchmark.name for benchmark in study.benchmarks]
    rendered = RichTable(title=f"{study.study}: {len(table.rows)} trials, ★ = Pareto front", title_justify="left")
    for name, justify in [
        ("trial", "left"),
        ("accuracy", "right"),
        ("against baseline", "left"),
        ("recovery", "right"),
    ]:
        rendered.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for name in [*benchmarks, "tokens/q", "truncated", "bits", "MB"]:
        rendered.add_column(name, justify="right", no_wrap=True)
    if study.usd_per_hour:
        rendered.add_column("USD/1k q", justify="right", no_wrap=True)
    model = None
    for row in table.rows:
        if row.trial.model.name != model:
            model = row.trial.model.name
            rendered.add_section()
            rendered.add_row(Text(model, style="italic"))
        rendered.add_row(*_cells(study, row, benchmarks), style="bold" if row.on_front else "")
    return rendered


def _cells(study: StudyConfig, row: Row, benchmarks: Sequence[str]) -> list[str]:
    by_name = {summary.name: summary for summary in row.benchmarks}
    checkpoint = row.checkpoint
    cells = [
        f"{'★' if row.on_front else ' '} {row.trial.scheme.name if row.trial.scheme else 'baseline'}",
        f"{_percent(row.accuracy)} ±{_percent(row.accuracy_half_width)}",
        show_difference(row.difference),
        _percent(row.recovery),
        *(_percent(by_name[name].accuracy if name in by_name else None) for name in benchmarks),
        "-" if row.tokens_per_question is None else f"{row.tokens_per_question:.0f}",
        _percent(row.truncation_rate),
        f"{checkpoint.effective_bits:.2f}",
        f"{checkpoint.checkpoint_gb * 1000:,.1f}",
    ]
    if study.usd_per_hour:
        cells.append("-" if row.usd_per_1k_questions is None else f"{row.usd_per_1k_questions:.4f}")
    return cells


def render_front(study: StudyConfig, table: Table) -> Text:
    """The front in one line a trial, by the study's first objective."""
    objectives = ", ".join(f"{name} ({direction})" for name, direction in study.objectives.items())
    first, direction = next(iter(study.objectives.items()))
    front = sorted((row for row in table.rows if row.on_front), key=lambda row: row.metrics[first])
    lines = [f"Pareto front over {objectives}; recovery of at least {study.min_recovery:g}:"]
    for row in reversed(front) if direction == "max" else front:
        values = ", ".join(f"{name} {row.metrics[name]:.4g}" for name in study.objectives)
        lines.append(f"  ★ {row.trial.name}: {values}")
    for name in study.objectives:
        if without := [row.trial.name for row in table.rows if name not in row.metrics]:
            lines.append(f"  off the front for want of {name}: {', '.join(without)}")
    return Text("\n".join(lines) + "\n")


def render_noise(study: StudyConfig, table: Table) -> Text:
    """Each baseline against itself under another seed: what a difference must exceed to mean anything."""
    lines = ["Noise floor (a baseline against itself, another seed):"]
    for base in baselines(study):
        noise = table.noise.get(base.model.name)
        shown = "not measured" if noise is None else show_difference(noise)
        lines.append(f"  {base.model.name}: {shown}")
    lines.append(
        "accuracy: mean over reasoning benchmarks ± half its 95 % interval; differences: points, paired by question."
    )
    if any(row.checkpoint.format == "dequantized" for row in table.rows):
        lines.append("bits and MB: the packed artifact to deploy; dequantized trials' speed is not representative.")
    return Text("\n".join(lines) + "\n")


def render_times(study: StudyConfig, folder: StudyFolder, wall_s: float | None) -> str:
    """Seconds by phase, over all trials and launches."""
    timings = [read_json(folder.timing(trial.name)) for trial in study_trials(study, folder)]
    known = [timing for timing in timings if timing is not None]
    phases = {"compressing": "compress_s", "starting engines": "engine_s", "answering": "answer_s"}
    parts = [f"{name} {sum(timing[key] for timing in known):.0f} s" for name, key in phases.items()]
    total = f"; this launch {wall_s:.0f} s in all" if wall_s is not None else ""
    return f"Time: {', '.join(parts)}{total}"


def show_difference(difference: Difference | None) -> str:
    """-1.3 [-3.0, +0.4] equal: points, 95 % interval, verdict."""
    if difference is None:
        return "-"
    value, low, high = (100 * part for part in (difference.value, difference.low, difference.high))
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}] {difference.verdict}"


def result_json(
    study: StudyConfig, folder: StudyFolder, table: Table, failures: dict[str, dict[str, str]]
) -> dict[str, Any]:
    """The table as plain values; fractions, tokens, GB, USD."""
    rows = []
    for row in table.rows:
        rows.append(
            {
                "trial": row.trial.name,
                "on_front": row.on_front,
                **row.metrics,
                "accuracy_half_width": row.accuracy_half_width,
                "difference": asdict(row.difference) | {"verdict": row.difference.verdict} if row.difference else None,
                "truncation_rate": row.truncation_rate,
                "format": row.checkpoint.format,
                "served_gb": row.checkpoint.served_gb,
                "size_source": row.checkpoint.size_source,
                "num_fallbacks": row.checkpoint.num_fallbacks,
                "outcomes": {summary.name: dict(summary.outcomes) for summary in row.benchmarks},
            }
        )
    noise = {name: asdict(floor) | {"verdict": floor.verdict} for name, floor in table.noise.items()}
    return {
        "study": study.study,
        "objectives": study.objectives,
        "min_recovery": study.min_recovery,
        "front": [row.trial.name for row in table.rows if row.on_front],
        "noise_floor": noise,
        "trials": rows,
        "failures": failures,
        "states": {name: str(state) for name, state in trial_states(study, folder).items()},
    }


def _of_model(trials: Sequence[TrialConfig], base: TrialConfig) -> list[TrialConfig]:
    return [trial for trial in trials if trial.model == base.model]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, TABLE_WIDTH))
