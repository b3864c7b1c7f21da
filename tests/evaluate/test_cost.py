import json
from dataclasses import replace
from pathlib import Path

import pytest

from evaluate import throughput
from evaluate.__main__ import main
from evaluate.cost import usd_per_1k_questions, usd_per_correct_answer
from evaluate.errors import BadInput
from evaluate.throughput import Throughput, ThroughputMeter, read_joules, read_throughput
from tests.evaluate.made_answers import ANSWER, answers_of, write_folder
from tests.evaluate.toy_server import MODEL, Server, completion


def test_cost_is_price_times_time() -> None:
    """2,000 tokens at 1,000 tokens/s are 2 s of 4 GPUs at 1.80 USD an hour."""
    usd = usd_per_1k_questions(1.8, 2000, 1000, num_gpus=4)
    assert usd == pytest.approx(4.0)
    assert usd_per_correct_answer(usd, 0.5) == pytest.approx(0.008)
    assert usd_per_correct_answer(usd, 0.0) is None
    with pytest.raises(ValueError, match="tokens_per_s is 0, must be above 0"):
        usd_per_1k_questions(1.8, 2000, 0)


def test_throughput_is_of_the_full_queue_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two at once: a slow start and a slow end do not count."""
    times = iter([10.0, 11.0, 12.0, 13.0, 14.0, 99.0])
    monkeypatch.setattr(throughput.time, "monotonic", lambda: next(times))
    meter = ThroughputMeter(concurrency=2)
    for i in range(6):
        assert meter.tokens_per_s() is None
        meter.count(replace(ANSWER, completion_tokens=30, problem_id=str(i)))
    assert meter.tokens_per_s() == pytest.approx(30)  # three answers of 30 tokens between 11 s and 14 s
    assert meter.num_answers == 6


def test_a_run_keeps_its_throughput_and_cost_prices_it(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answer = lambda body, n: completion("<think>1</think>True", tokens=100)
    more = ["--benchmark", "logic", "--num-problems", "20", "--concurrency", "2", "--output", str(tmp_path / "a")]
    run = ["run", "--endpoint", server.endpoint.url, "--model", MODEL, *more]
    assert main(run) == 0
    kept = (tmp_path / "a" / "throughput.json").read_text()
    measured = read_throughput(tmp_path / "a")
    assert measured is not None and measured.tokens_per_s is not None and measured.tokens_per_s > 0
    assert (measured.concurrency, measured.joules_per_question) == (2, None)
    assert main(run) == 0  # nothing left to ask, nothing measured
    assert (tmp_path / "a" / "throughput.json").read_text() == kept
    capsys.readouterr()
    prices = ["--usd-per-gpu-hour", "3.6", "--num-gpus", "2", "--tokens-per-s", "1000"]
    assert main(["cost", str(tmp_path / "a"), *prices, "--json"]) == 0
    logic = json.loads(capsys.readouterr().out)["benchmarks"]["logic"]
    assert logic["usd_per_1k_questions"] == pytest.approx(0.2)  # 100 s of two GPUs at a tenth of a cent a second
    assert logic["usd_per_correct_answer"] == pytest.approx(0.0002 / logic["accuracy"])
    assert main(["cost", str(tmp_path / "a"), "--usd-per-gpu-hour", "3.6"]) == 0
    assert f"{measured.tokens_per_s:.0f} tokens/s" in capsys.readouterr().out


def test_what_cannot_be_priced_is_unknown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = [replace(a, completion_tokens=None) for a in answers_of([0, 0])]
    folder = write_folder(tmp_path / "a", answers)
    assert main(["cost", str(folder), "--usd-per-gpu-hour", "1"]) == 2
    assert f"{folder / 'throughput.json'}: no throughput was measured" in capsys.readouterr().err
    Throughput(50.0, 4, joules_per_question=12.5).write(folder)
    assert main(["cost", str(folder), "--usd-per-gpu-hour", "1"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[1].split()[2:] == ["-"] * 4 and "12.5 J a question" in out
    (folder / "throughput.json").write_text("[]")
    assert main(["cost", str(folder), "--usd-per-gpu-hour", "1"]) == 2
    assert "holds no throughput" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"tokens_per_s": "x", "concurrency": 1}', '{"tokens_per_s": -1, "concurrency": 1}']
)
def test_another_files_content_is_no_throughput(text: str, tmp_path: Path) -> None:
    (tmp_path / "throughput.json").write_text(text)
    with pytest.raises(BadInput, match=r"throughput\.json: holds no throughput; delete it and run again"):
        read_throughput(tmp_path)


def test_energy_is_refused_where_there_is_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(throughput.ctypes, "CDLL", missing)
    with pytest.raises(BadInput, match="no NVIDIA driver"):
        read_joules([0])


@pytest.mark.gpu
def test_energy_counter_only_grows() -> None:
    try:
        first = read_joules([0])
    except BadInput as error:
        pytest.skip(str(error))
    assert 0 < first <= read_joules([0])
    with pytest.raises(BadInput, match="no GPU 99 here"):
        read_joules([99])
