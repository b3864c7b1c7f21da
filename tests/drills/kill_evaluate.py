"""A drill by hand: kill -9 of `python -m evaluate run` at random moments, resumed each time, then a look at the books.

    python -m tests.drills.kill_evaluate [NUM_KILLS [SEED]]     # from the repository's root; under a minute

A real server, a process of its own, answers each request as a function of its text and seed alone, and notes every
request that arrives. After the last kill the run is left to finish, and another one goes undisturbed. The verdict:
no finished answer lost or changed, none asked again, at most what was in flight asked twice, the same summary and
the same table. Exit code 1 where one of these does not hold.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from evaluate.store import read_answers
from tests.evaluate.toy_server import MODEL, Reply, Server, completion

REPOSITORY = Path(__file__).parents[2]
CONCURRENCY = 8
NUM_COMPLETIONS = 2


def answer(body: dict[str, Any]) -> Reply:
    """Right, wrong, cut short or without an answer, after 10 to 60 ms; a function of the request alone."""
    draw = random.Random(blake2b(json.dumps(body, sort_keys=True).encode(), digest_size=8).digest())
    time.sleep(draw.uniform(0.01, 0.06))
    text = f"<think>\n{'hm ' * draw.randint(1, 2000)}\n</think>\n"
    tokens = draw.randint(10, 4000)
    match draw.choices(("right", "wrong", "cut", "none"), (60, 25, 10, 5))[0]:
        case "right":
            return completion(f"{text}\\boxed{{1}}", tokens=tokens)
        case "wrong":
            return completion(f"{text}\\boxed{{{draw.randint(2, 999)}}}", tokens=tokens)
        case "cut":
            return completion(text[: len(text) // 2], "length", tokens=tokens)
        case _:
            return completion(f"{text}I am not sure.", tokens=tokens)


def serve(log: Path) -> None:
    """Serves until it is terminated; prints its URL, and notes the seed of each request, which tells them apart."""
    with Server() as server, log.open("ab", buffering=0) as arrivals:

        def respond(body: dict[str, Any], n: int) -> Reply:
            arrivals.write(f"{body['seed']}\n".encode())
            return answer(body)

        server.answer = respond
        print(server.endpoint.url, flush=True)
        server.serve_forever()


@contextmanager
def served(log: Path) -> Iterator[str]:
    """The URL of the server while it runs."""
    command = [sys.executable, "-m", "tests.drills.kill_evaluate", "serve", str(log)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


@dataclass(frozen=True)
class Books:
    """What stood on disk and in the server's log when a run had been killed."""

    lines: tuple[bytes, ...]
    seeds: frozenset[int]
    num_arrivals: int


def arrived(log: Path) -> list[int]:
    """Seeds of the requests in the order of their arrival."""
    return [int(line) for line in log.read_bytes().split()] if log.exists() else []


def kill_in_a_run(command: Sequence[str], output: Path, log: Path, rng: random.Random, most: int) -> Books:
    """Starts a run and kills it within `most` more requests; returns what it left."""
    after, extra_s = len(arrived(log)) + rng.randint(0, most), rng.uniform(0.0, 0.05)
    with subprocess.Popen([*command, str(output)], cwd=REPOSITORY, stderr=subprocess.DEVNULL) as process:
        while len(arrived(log)) < after:
            assert process.poll() is None, "the run ended before it could be killed"
            time.sleep(0.002)
        time.sleep(extra_s)
        process.send_signal(signal.SIGKILL)
    time.sleep(0.1)  # a request already sent arrives
    path = output / "answers.jsonl"
    lines = tuple(path.read_bytes().split(b"\n")[:-1]) if path.exists() else ()
    return Books(lines, frozenset(json.loads(line)["seed"] for line in lines), len(arrived(log)))


def finish(command: Sequence[str], output: Path) -> str:
    """Runs to the end and returns what it printed."""
    done = subprocess.run([*command, str(output)], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def drill(folder: Path, num_problems: int, num_kills: int, seed: int) -> list[str]:
    """Runs the drill in an empty folder, says what it does, and returns what does not hold."""
    rng = random.Random(seed)
    file, log = folder / "problems.jsonl", folder / "arrivals.log"
    rows = ({"id": f"p{i}", "problem": f"What is item {i}?", "answer": "1"} for i in range(num_problems))
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    num_requests = num_problems * NUM_COMPLETIONS
    with served(log) as url:
        command = [sys.executable, "-m", "evaluate", "run", "--endpoint", url, "--model", MODEL]
        command += ["--benchmark", f"aime={file}", "--num-completions", str(NUM_COMPLETIONS)]
        command += ["--concurrency", str(CONCURRENCY), "--output"]
        kills: list[Books] = []
        for number in range(1, num_kills + 1):
            kills.append(kill_in_a_run(command, folder / "killed", log, rng, num_requests // (num_kills + 1)))
            print(f"kill {number}: {len(kills[-1].lines)} answers finished, {kills[-1].num_arrivals} requests so far")
        tables = [finish(command, folder / "killed")]
        arrivals = arrived(log)
        tables.append(finish(command, folder / "undisturbed"))
    return check(folder, kills, arrivals, tables, num_requests)


def check(
    folder: Path, kills: Sequence[Books], arrivals: Sequence[int], tables: Sequence[str], num_requests: int
) -> list[str]:
    """Returns what does not hold, and prints the counts."""
    lines = set((folder / "killed" / "answers.jsonl").read_bytes().split(b"\n")[:-1])
    answers = read_answers(folder / "killed")
    lost = sum(line not in lines for books in kills for line in books.lines)
    again = sum(seed in books.seeds for books in kills for seed in arrivals[books.num_arrivals :])
    twice = len(arrivals) - num_requests
    print(f"{len(answers)} answers to {num_requests} requests; {lost} finished ones lost, {again} asked again")
    print(f"{twice} requests asked again that were in flight, at {len(kills)} kills with {CONCURRENCY} at a time")
    print(tables[0])
    plain = [sorted((a.problem_id, a.sample, a.completion, a.outcome) for a in answers)]
    plain.append(
        sorted((a.problem_id, a.sample, a.completion, a.outcome) for a in read_answers(folder / "undisturbed"))
    )
    summaries = [(folder / name / "summary.json").read_bytes() for name in ("killed", "undisturbed")]
    wrongs = {
        f"{lost} finished answers lost or changed": lost > 0,
        f"{again} finished answers asked again": again > 0,
        f"{twice} requests asked again, more than {CONCURRENCY} a kill": not 0 <= twice <= CONCURRENCY * len(kills),
        "not one answer a request": set(Counter(a.seed for a in answers).values()) != {1}
        or len(answers) != num_requests,
        "other answers than undisturbed": plain[0] != plain[1],
        "another summary than undisturbed": summaries[0] != summaries[1],
        "another table than undisturbed": tables[0] != tables[1],
    }
    return [wrong for wrong, holds in wrongs.items() if holds]


def main(num_kills: int, seed: int) -> int:
    """Prints the verdict and returns the exit code."""
    print(f"{num_kills} kills, seed {seed}")
    with tempfile.TemporaryDirectory(prefix="drill-") as folder:
        wrongs = drill(Path(folder), 200, num_kills, seed)
    print(f"verdict: {'; '.join(wrongs) or 'nothing lost, nothing asked twice but what was in flight, the same table'}")
    return bool(wrongs)


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(Path(sys.argv[2]))
    numbers = [int(argument) for argument in sys.argv[1:]]
    sys.exit(main(numbers[0] if numbers else 10, numbers[1] if len(numbers) > 1 else int(time.time())))
