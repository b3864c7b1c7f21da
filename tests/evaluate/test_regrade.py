import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evaluate.__main__ import main
from evaluate.grading import GRADER_VERSION
from evaluate.store import AnswerStore
from tests.evaluate.toy_server import MODEL, Server, completion

Line = dict[str, Any]


@pytest.fixture
def folder(server: Server, tmp_path: Path) -> Path:
    """A finished run over a file and a generated benchmark, with right, wrong, cut and empty answers."""
    rows = [{"id": f"p{i}", "problem": f"What is item {i}?", "answer": "33"} for i in range(8)]
    (tmp_path / "aime.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = [r"\boxed{33}", r"<think>\boxed{33}</think> Done.", r"\boxed{\frac{66}{2}}", r"\boxed{44}", "no idea"]
    server.answer = lambda body, n: completion(texts[n % 5], "length" if n % 7 == 0 else "stop")
    arguments = ["--benchmark", f"aime={tmp_path}/aime.jsonl", "--benchmark", "logic", "--num-problems", "8"]
    assert run(server, tmp_path / "out", *arguments) == 0
    return tmp_path / "out"


def run(server: Server, output: Path, *more: str) -> int:
    return main(["run", "--endpoint", server.endpoint.url, "--model", MODEL, "--output", str(output), *more])


def spoil(folder: Path, change: Callable[[Line], Line]) -> None:
    """Rewrites the stored lines, as an older grader might have left them."""
    lines = [change(json.loads(line)) for line in (folder / "answers.jsonl").read_text().splitlines()]
    (folder / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def as_came_last_first(folder: Path) -> None:
    """The order in which answers arrive is a matter of chance, and must not show in the summary."""
    lines = (folder / "answers.jsonl").read_text().splitlines(keepends=True)
    (folder / "answers.jsonl").write_text(
        "".join(sorted(lines, key=lambda line: json.loads(line)["benchmark"] == "aime"))
    )


def as_version_1(line: Line) -> Line:
    return {**line, "grader": "1", "outcome": "incorrect", "answer": "0", "rule": "guess", "lenient": None, "f1": 0.5}


def test_verdicts_are_replaced_and_completions_kept(
    folder: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    as_came_last_first(folder)
    before = {name: (folder / name).read_bytes() for name in ("answers.jsonl", "summary.json", "spec.json")}
    spoil(folder, as_version_1)
    num_asked = len(server.asked)
    capsys.readouterr()
    assert main(["regrade", str(folder)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{folder}: 16 answers, grader version 1 -> {GRADER_VERSION}: ") and out.count("\n") == 1
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert len(server.asked) == num_asked
    assert main(["regrade", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "num_answers": 16,
        "from_versions": [GRADER_VERSION],
        "to_version": GRADER_VERSION,
        "changes": {},
    }


def test_a_folder_of_an_older_grader_is_refused_until_it_is_graded_anew(
    folder: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        *("--benchmark", f"aime={folder.parent}/aime.jsonl", "--benchmark", "logic", "--num-problems", "8"),
    ]
    spoil(folder, as_version_1)
    num_asked = len(server.asked)
    assert run(server, folder, *arguments) == 2
    assert f"regrade {folder}" in capsys.readouterr().err
    assert main(["regrade", str(folder)]) == 0
    assert run(server, folder, *arguments) == 0
    assert len(server.asked) == num_asked


def test_failed_requests_stay_failed(folder: Path) -> None:
    failed = {"error": "503", "outcome": "error", "rule": "request_failed", "completion": None, "answer": None}
    spoil(folder, lambda line: {**as_version_1(line), **failed})
    assert main(["regrade", str(folder)]) == 0
    outcomes = {json.loads(line)["outcome"] for line in (folder / "answers.jsonl").read_text().splitlines()}
    assert outcomes == {"error"}


def test_a_moved_file_is_found_where_the_user_says(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moved = (folder.parent / "aime.jsonl").rename(folder.parent / "moved.jsonl")
    before = (folder / "answers.jsonl").read_bytes()
    capsys.readouterr()
    assert main(["regrade", str(folder)]) == 2
    assert "--benchmark aime=FILE" in capsys.readouterr().err
    assert main(["regrade", str(folder), "--benchmark", f"aime={moved}"]) == 0
    moved.write_text(moved.read_text().replace('"33"', '"34"'))
    assert main(["regrade", str(folder), "--benchmark", f"aime={moved}"]) == 2
    assert "is not the file that was asked from" in capsys.readouterr().err
    assert (folder / "answers.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("spoiled", "named"),
    [
        ("answers.jsonl", "holds no answers.jsonl"),
        ("spec.json", "spec.json: is no spec of a run"),
    ],
)
def test_no_folder_of_answers_is_refused(
    spoiled: str, named: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / spoiled).unlink()
    capsys.readouterr()
    assert main(["regrade", str(folder)]) == 2
    err = capsys.readouterr().err
    assert named in err and err.count("\n") == 1


@pytest.mark.parametrize("name", ["answers.jsonl", "summary.json", "spec.json"])
def test_nothing_is_replaced_where_one_file_cannot_be_written(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(folder, as_version_1)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    write = Path.write_bytes

    def write_others(path: Path, content: bytes) -> int:
        if name in path.name:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", write_others)
    capsys.readouterr()
    assert main(["regrade", str(folder)]) == 2
    err = capsys.readouterr().err
    assert err == f"error: {folder / name}: No space left on device; free some space\n"
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_summary_that_cannot_be_replaced_leaves_the_rest(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil(folder, as_version_1)
    (folder / "summary.json").unlink()
    (folder / "summary.json").mkdir()
    before = (folder / "answers.jsonl").read_bytes()
    capsys.readouterr()
    assert main(["regrade", str(folder)]) == 2
    assert f"error: {folder / 'summary.json'}: Is a directory" in capsys.readouterr().err
    assert (folder / "answers.jsonl").read_bytes() == before
    assert not list(folder.glob(".*"))


def test_a_torn_line_is_dropped_and_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = (folder / "answers.jsonl").read_bytes()
    (folder / "answers.jsonl").write_bytes(content[:-20])
    capsys.readouterr()
    assert main(["regrade", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert "15 answers" in out and "answers.jsonl: 1 torn line" in err and err.count("\n") == 1
    assert (folder / "answers.jsonl").read_bytes().count(b"\n") == 15


def test_answers_in_another_encoding_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "answers.jsonl").write_bytes(b"\xff\xfe")
    capsys.readouterr()
    assert main(["regrade", str(folder)]) == 2
    assert "answers.jsonl: line 1: is no UTF-8 text" in capsys.readouterr().err


def test_a_folder_that_a_run_writes_to_is_left_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with AnswerStore(folder, json.loads((folder / "spec.json").read_text())):
        assert main(["regrade", str(folder)]) == 2
    assert "another run is writing here" in capsys.readouterr().err
