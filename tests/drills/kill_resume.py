"""A drill by hand: kill -9 of a study's driver during engine start, compression and answering; then resume.

    python -m tests.drills.kill_resume [FOLDER]        # from the repository's root; about four minutes on two cores

4 trials x 40 questions of a bundled model. After each kill it waits until no process of the dead driver lives, notes
what the stores hold, and goes on with `python -m sweep resume drill`. It prints what it found; exit code 1 when a
process stayed, a finished checkpoint or answer changed, or the study did not finish.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.integration.drivers import answer_lines, checkpoint_bytes, is_compressing, sweep_driver, sweep_json

MODEL = Path(__file__).parents[2] / "models" / "pocket-llama-1m"
STUDY = f"""
study: drill
models: [{{path: {MODEL}}}]
space:
  - {{method: sparsegpt, sparsity: [0.4, 0.5]}}
  - {{method: gptq, num_bits: 3, group_size: 64}}
benchmarks: [temporal, logic, arithmetic, recall]
num_problems: 10
sampling: {{max_tokens: 256}}
calibration: {{num_samples: 512, max_seq_length: 512}}
format: dequantized
engine:
  engine_kwargs:
    {{max_model_len: 1024, enforce_eager: true, kv_cache_memory_bytes: 134217728, max_num_seqs: 32, dtype: bfloat16}}
concurrency: 2
"""


def main(folder: Path) -> int:
    """Run the drill in `folder`, an empty one. Returns the exit code."""
    (folder / "study.yaml").write_text(STUDY)
    print(f"in {folder}: {MODEL.name}, a baseline and 3 schemes, 40 questions each (the baseline twice)")
    command = ("launch", "study.yaml")
    for phase, reached in PHASES.items():
        kill_in(folder, command, phase, reached)
        command = ("resume", "drill")
    with sweep_driver(folder, *command) as driver:
        started = time.monotonic()
        code = driver.wait()
        print(f"resume: exit code {code} after {time.monotonic() - started:.0f} s")
        print(f"  no process left {driver.wait_until_gone():.1f} s later")
        print(driver.text())
    return code or check_table(folder)


def kill_in(folder: Path, command: tuple[str, ...], phase: str, reached: Callable[[Path], bool]) -> None:
    """Start a driver, kill it in `phase`, and check that its processes end and that it left old results alone."""
    before = held(folder)
    with sweep_driver(folder, *command) as driver:
        started = time.monotonic()
        driver.wait_for(lambda: reached(folder), phase)
        living = driver.processes()
        driver.kill()
        print(f"{' '.join(command)}: kill -9 during {phase}, after {time.monotonic() - started:.0f} s")
        print(f"  {len(living)} processes, the last gone {driver.wait_until_gone():.1f} s after the kill")
    compare(before, held(folder))


def held(folder: Path) -> tuple[dict[Path, list[bytes]], dict[Path, tuple[bytes, int]]]:
    """Finished answers and finished checkpoints."""
    return answer_lines(folder / "mlruns/store"), checkpoint_bytes(folder / "mlruns/store")


def compare(
    before: tuple[dict[Path, list[bytes]], dict[Path, tuple[bytes, int]]],
    after: tuple[dict[Path, list[bytes]], dict[Path, tuple[bytes, int]]],
) -> None:
    """Print what is held now. Raises AssertionError where what was held before has changed."""
    (old_answers, old_files), (answers, files) = before, after
    changed = [path for path, lines in old_answers.items() if answers[path][: len(lines)] != lines]
    changed += [path for path, content in old_files.items() if files.get(path) != content]
    assert not changed, f"changed: {changed}"
    kept = f"{sum(map(len, old_answers.values()))} answers and {num_folders(old_files)} checkpoints of before untouched"
    print(f"  {kept}; now {sum(map(len, answers.values()))} and {num_folders(files)}")


def num_folders(files: dict[Path, tuple[bytes, int]]) -> int:
    return len({path.parent for path in files})


def check_table(folder: Path) -> int:
    """0 where every trial is complete and no question was answered twice."""
    states = sweep_json(folder, "pareto", "drill")["states"]
    counts = sorted(len(lines) for lines in answer_lines(folder / "mlruns/store").values())
    print(f"states {states}; answers by evaluation {counts}")
    return int(set(states.values()) != {"complete"} or counts != [40] * 5)


def starts_an_engine(folder: Path) -> bool:
    """The engine's log has its first lines."""
    return any(path.stat().st_size for path in folder.glob("mlruns/studies/drill/logs/*.log"))


def answers(folder: Path) -> bool:
    return sum(len(lines) for lines in answer_lines(folder / "mlruns/store").values()) >= 10


def compresses(folder: Path) -> bool:
    return is_compressing(folder / "mlruns/store")


PHASES: dict[str, Callable[[Path], bool]] = {
    "engine start": starts_an_engine,
    "compression": compresses,
    "answering": answers,
}

if __name__ == "__main__":
    if len(sys.argv) > 1:
        Path(sys.argv[1]).mkdir(parents=True)
        sys.exit(main(Path(sys.argv[1]).absolute()))
    with tempfile.TemporaryDirectory(prefix="drill-") as temporary:
        sys.exit(main(Path(temporary)))
