import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from evaluate.__main__ import main
from evaluate.store import read_answers
from tests.evaluate.toy_server import MODEL, Reply, Server, completion

REPOSITORY = Path(__file__).resolve().parents[2]
LINE = {"completion": r"so</think> \boxed{025}", "finish_reason": "stop", "reference": "25"}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(server: Server, output: Path, *more: str) -> int:
    return main(["run", "--endpoint", server.endpoint.url, "--model", MODEL, "--output", str(output), *more])


class TestGrade:
    def test_one_line_each_in_order_and_nothing_else(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        rows = [
            LINE,
            {**LINE, "reference": ["1", "2"]},
            {**LINE, "finish_reason": "length"},
            {**LINE, "completion": None},
        ]
        assert main(["grade", "--benchmark", "aime", str(write(tmp_path / "a.jsonl", *rows)), "--json"]) == 0
        out, err = capsys.readouterr()
        lines = [json.loads(line) for line in out.splitlines()]
        assert all(line["grader"] and line["lenient"] and line["lenient_rule"] for line in lines)
        assert [{key: line[key] for key in ("outcome", "answer", "rule")} for line in lines] == [
            {"outcome": "correct", "answer": "25", "rule": "boxed"},
            {"outcome": "incorrect", "answer": "25", "rule": "boxed"},
            {"outcome": "truncated", "answer": None, "rule": "finish_length"},
            {"outcome": "error", "answer": None, "rule": "null_completion"},
        ]
        assert err == ""

    def test_short_texts_have_f1_and_a_count_closes_the_list(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        row = {"completion": "</think> 3rd generation", "finish_reason": "stop", "reference": ["third generation"]}
        assert main(["grade", "--benchmark", "musique", str(write(tmp_path / "a.jsonl", row))]) == 0
        first, last = capsys.readouterr().out.splitlines()
        assert json.loads(first)["f1"] == 0.5
        assert last == "1 graded: 1 incorrect"

    @pytest.mark.parametrize(
        ("bad", "named"),
        [
            ({"completion": 5}, "key 'completion' is 5, must be a text or null"),
            ({"reference": 25}, "key 'reference' is 25"),
            ({"reference": []}, "key 'reference' is []"),
            ({"reference": "x"}, "must be an integer"),
            ({"options": ["A"]}, "key 'options'"),
            ({"finish_reason": 1}, "key 'finish_reason'"),
            ({"option": "(A) 1"}, "key 'option' is unknown, nearest is 'options'"),
        ],
    )
    def test_bad_lines_are_named(
        self, bad: dict[str, object], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = write(tmp_path / "a.jsonl", LINE, {**LINE, **bad})
        assert main(["grade", "--benchmark", "aime", str(path), "--json"]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith(f"error: {path}: line 2: ") and named in err and err.count("\n") == 1

    @pytest.mark.parametrize("key", LINE)
    def test_missing_keys_are_named(self, key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = write(tmp_path / "a.jsonl", {k: v for k, v in LINE.items() if k != key})
        assert main(["grade", "--benchmark", "aime", str(path)]) == 2
        assert f"line 1: key {key!r} is missing" in capsys.readouterr().err
        write(path, {f"{k}s" if k == key else k: v for k, v in LINE.items()})
        assert main(["grade", "--benchmark", "aime", str(path)]) == 2
        assert f"line 1: key {key!r} is missing, nearest is '{key}s'" in capsys.readouterr().err

    def test_keys_of_other_names_may_stand_there(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.jsonl", {**LINE, "id": 1, "completion_id": 2, "question": "q"})
        assert main(["grade", "--benchmark", "aime", str(path)]) == 0

    @pytest.mark.parametrize("content", ["", "\n", "[]\n", "{\n"])
    def test_files_of_another_shape_are_refused(
        self, content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "a.jsonl").write_text(content)
        assert main(["grade", "--benchmark", "aime", str(tmp_path / "a.jsonl")]) == 2
        assert str(tmp_path / "a.jsonl") in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("content", "named"),
        [
            (b"[" * 100_000 + b"\n", ": line 1: no valid JSON (nested too deeply)"),
            (b'{"completion": ' + b"1" * 10_000 + b"}\n", ": line 1: no valid JSON (Exceeds the limit"),
            (b'{}\n{"completion": "\xe9"}\n', ": line 2: is no UTF-8 text"),
            (b'{"completion": "1', ": line 1: no valid JSON (Unterminated string"),
            (
                b'{"completion": "1", "completion": "2"}',
                ": line 1: no valid JSON (key 'completion' stands there twice); mend or drop the line",
            ),
            (b"\x1f\x8b\x08\x00", ": is packed by gzip; unpack it first: gunzip "),
        ],
    )
    def test_files_that_hold_no_text_are_named(
        self, content: bytes, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "a.jsonl").write_bytes(content)
        assert main(["grade", "--json", "--benchmark", "aime", str(tmp_path / "a.jsonl")]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and f"{tmp_path / 'a.jsonl'}{named}" in err

    def test_byte_order_mark_and_windows_lines_are_read(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "a.jsonl"
        path.write_bytes(b"\xef\xbb\xbf" + (json.dumps(LINE) + "\r\n").encode() * 2)
        assert main(["grade", "--json", "--benchmark", "aime", str(path)]) == 0
        assert len(capsys.readouterr().out.splitlines()) == 2

    @pytest.mark.parametrize(
        ("reader", "told"),
        [("head -n 1", ""), ("cat > /dev/full", "error: standard output: No space left on device; free some space\n")],
    )
    def test_an_output_that_takes_no_more_ends_it_in_at_most_one_line(
        self, reader: str, told: str, tmp_path: Path
    ) -> None:
        path = write(tmp_path / "a.jsonl", *[LINE] * 3000)
        command = f"{sys.executable} -m evaluate grade --benchmark aime {path}"
        into = command + (" > /dev/full" if "full" in reader else f" | {reader} > {tmp_path / 'out'}")
        bash = ["bash", "-c", f"{into}; echo ${{PIPESTATUS[0]}}"]
        done = subprocess.run(bash, cwd=REPOSITORY, capture_output=True, text=True, check=True)
        assert (done.stdout, done.stderr) == ("2\n", told)


class TestFiles:
    @pytest.mark.parametrize(
        ("command", "named"),
        [
            (["regrade", "DIR"], "DIR"),
            (["compare", "DIR", "DIR"], "DIR"),
            (["collapse", "0=DIR", "1=DIR"], "DIR"),
            (["cost", "DIR", "--usd-per-gpu-hour", "1"], "DIR"),
            (["grade", "--benchmark", "aime", "DIR/answers.jsonl"], "DIR/answers.jsonl"),
        ],
    )
    def test_what_may_not_be_read_is_named_in_one_line(
        self,
        command: list[str],
        named: str,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The rights are simulated: root may read everything."""

        def refuse(path: Path, *_: object, **__: object) -> NoReturn:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

        for name in ("is_file", "is_dir", "exists", "read_bytes", "read_text"):
            monkeypatch.setattr(Path, name, refuse)
        assert main([part.replace("DIR", str(tmp_path)) for part in command]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and "Permission denied" in err
        assert err.startswith(f"error: {named.replace('DIR', str(tmp_path))}")

    @pytest.mark.parametrize("place", ["file/sub", "/proc/none/out"])
    def test_an_output_that_cannot_be_written_is_named_in_one_line(
        self, place: str, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "file").write_text("")
        capsys.readouterr()
        assert run(server, tmp_path / place, "--benchmark", "recall", "--num-problems", "1") == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: ") and error.endswith("; change its rights or give another path")
        assert place.partition("/")[0] in error


class TestRun:
    def test_leaves_answers_and_summary_and_prints_a_table(
        self, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        server.answer = lambda body, n: completion("<think>\n1\n</think>\nTrue")
        file = write(tmp_path / "f.jsonl", {"premises": ["p"], "conclusion": "c", "label": "True"})
        more = ["--benchmark", f"folio={file}", "--benchmark", "logic", "--num-problems", "5", "--temperature", "0"]
        assert run(server, tmp_path / "out", *more) == 0
        out, err = capsys.readouterr()
        assert "folio" in out and "1.000" in out and "logic" in out
        assert "folio: 1 problems" in err and "CC BY-SA 4.0" in err
        lines = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
        assert len(lines) == 6
        assert [line["outcome"] for line in lines if line["benchmark"] == "folio"] == ["correct"]
        summary = json.loads((tmp_path / "out" / "summary.json").read_text())
        assert summary["benchmarks"]["folio"]["accuracy"] == 1.0
        assert summary["benchmarks"]["folio"]["think_share"] > 0
        assert {b["temperature"] for b in server.asked} == {0.0}

    def test_json_prints_the_summary_alone(
        self, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(server, tmp_path / "out", "--benchmark", "recall", "--num-problems", "2", "--json") == 0
        assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "out" / "summary.json").read_text())

    def test_failed_requests_give_exit_code_1(
        self, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        server.answer = lambda body, n: Reply({"error": "too long"}, status=400)
        assert run(server, tmp_path / "out", "--benchmark", "logic", "--num-problems", "2") == 1
        err = capsys.readouterr().err
        assert "2 requests failed, see `error` in" in err
        assert "the first: HTTP 400 Bad Request: " in err and "too long" in err

    @pytest.mark.parametrize(
        ("more", "named"),
        [
            (["--benchmark", "aime=nowhere.jsonl"], "nowhere.jsonl: no such file"),
            (["--benchmark", "aimee"], "nearest is 'aime'"),
            (["--benchmark", "logic", "--benchmark", "logic"], "stands there twice"),
            (["--benchmark", "logic", "--max-model-len", "99"], "--max-model-len: needs --tokenizer DIR"),
            (["--benchmark", "logic", "--tokenizer", "nowhere"], "tokenizer nowhere: holds no tokenizer.json"),
            (["--benchmark", "logic", "--endpoint", "localhost:1"], "must look like http://HOST:PORT/v1"),
            (["--benchmark", "logic", "--model", "other"], "serves no model 'other', but toy"),
            (
                ["--benchmark", "logic", "--endpoint", "http://127.0.0.1:9/v1"],
                "http://127.0.0.1:9/v1: cannot be reached",
            ),
        ],
    )
    def test_bad_input_is_one_line_and_exit_code_2(
        self, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], named: str
    ) -> None:
        assert run(server, tmp_path / "out", *more) == 2
        out, err = capsys.readouterr()
        assert named in err and err.count("\n") == 1 and out == ""
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("more", "named"),
        [
            (["--temperature", "nan"], "--temperature: is 'nan', must be a number from 0 to 10"),
            (["--temperature", "-1"], "must be a number from 0"),
            (["--max-tokens", "0"], "--max-tokens: is '0', must be a whole number from 1"),
            (["--max-tokens", "1e3"], "must be a whole number"),
            (["--top-p", "0"], "--top-p"),
            (["--prompting", "chatt"], "must be one of chat, paper, completion"),
            (["--setting", "weights"], "must be NAME=VALUE"),
            (["--max-token", "5"], "nearest is '--max-tokens'"),
            (["--outputt=5"], "unrecognized arguments: --outputt, nearest is '--output'"),
        ],
    )
    def test_bad_arguments_are_one_line_and_exit_code_2(
        self, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], named: str
    ) -> None:
        with pytest.raises(SystemExit) as refusal:
            run(server, tmp_path / "out", "--benchmark", "logic", *more)
        err = capsys.readouterr().err
        assert refusal.value.code == 2
        assert named in err and err.count("\n") == 1

    def test_an_unknown_argument_is_named_before_the_one_that_it_was_to_be(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as refusal:
            main(["grade", "--benchmrk", "aime", "a.jsonl"])
        assert refusal.value.code == 2
        assert "unrecognized arguments: --benchmrk, nearest is '--benchmark'" in capsys.readouterr().err

    def test_another_sampling_in_the_same_folder_names_the_difference(
        self, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ["--benchmark", "logic", "--num-problems", "2"]
        assert run(server, tmp_path / "out", *arguments) == 0
        capsys.readouterr()
        assert run(server, tmp_path / "out", *arguments, "--seed", "5") == 2
        err = capsys.readouterr().err
        assert "sampling.seed 0, not 5" in err and err.count("\n") == 1

    def test_held_out_runs_ask_the_rest_of_the_shared_order(self, server: Server, tmp_path: Path) -> None:
        for name, subset in (("all", []), ("dev", ["--num-problems", "2"]), ("test", ["--skip-problems", "2"])):
            file = write(tmp_path / "f.jsonl", *({"id": f"p{i}", "problem": f"p{i}", "answer": 1} for i in range(6)))
            assert run(server, tmp_path / name, "--benchmark", f"aime={file}", "--concurrency", "1", *subset) == 0
        asked = [[a.problem_id for a in read_answers(tmp_path / name)] for name in ("all", "dev", "test")]
        assert asked[0] == asked[1] + asked[2] and len(asked[1]) == 2
        assert run(server, tmp_path / "none", "--benchmark", f"aime={file}", "--skip-problems", "6") == 2

    def test_settings_are_part_of_what_was_asked(
        self, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ["--benchmark", "logic", "--num-problems", "1", "--setting"]
        assert run(server, tmp_path / "out", *arguments, "weights=abc") == 0
        assert run(server, tmp_path / "out", *arguments, "weights=xyz") == 2
        assert 'settings.weights "abc", not "xyz"' in capsys.readouterr().err


def test_help_teaches_and_imports_nothing_heavy() -> None:
    code = (
        "import sys, evaluate.__main__ as m\n"
        "try: m.main(['run', '--help'])\n"
        "except SystemExit: pass\n"
        "import evaluate.runner, evaluate.benchmarks\n"
        "heavy = {'torch', 'transformers', 'vllm', 'ray', 'mlflow', 'aiohttp', 'pydantic', 'numpy'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "examples:" in done.stdout and "--benchmark aime=aime24.jsonl" in done.stdout
