import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from evaluate.__main__ import main
from evaluate.collapse import CollapseRule, compare_collapse, retention_curve
from evaluate.schema import Answer
from tests.evaluate.made_answers import SPEC, answers_of, write_folder


def first(count: int, of: int = 100) -> list[Answer]:
    return answers_of([1] * count + [0] * (of - count))


def test_retention_is_relative_to_the_least_compressed_and_crossing_is_linear() -> None:
    found = retention_curve({0.5: first(20), 0.0: first(80), 0.3: first(60)})
    assert [p.level for p in found.points] == [0.0, 0.3, 0.5]
    assert [p.accuracy for p in found.points] == pytest.approx([0.8, 0.6, 0.2])
    assert [p.retention for p in found.points] == pytest.approx([1, 0.75, 0.25])
    assert found.collapse == pytest.approx(0.4)  # half way from 0.75 to 0.25
    assert found.collapse_low is not None and found.collapse_high is not None
    assert 0.3 < found.collapse_low < 0.4 < found.collapse_high < 0.5
    assert (found.first_certain_level, found.num_problems) == (0.5, 100)
    assert (found.points[0].low, found.points[0].high) == (1, 1)


def test_what_never_falls_has_no_collapse() -> None:
    found = retention_curve({0: first(80), 1: first(70)})
    assert (found.collapse, found.collapse_low, found.collapse_high, found.first_certain_level) == (None,) * 4


def test_a_collapse_that_is_not_certain_reaches_beyond_the_last_level() -> None:
    found = retention_curve({0: first(16, of=20), 1: first(7, of=20)})
    assert found.collapse is not None and found.collapse_high is None and found.first_certain_level is None


def test_guessing_is_taken_off() -> None:
    levels = {0: first(85), 1: first(25)}
    assert retention_curve(levels).points[1].retention == pytest.approx(25 / 85)
    found = retention_curve(levels, CollapseRule(chance={"logic": 0.25}))
    assert found.points[1].retention == pytest.approx(0)
    with pytest.raises(ValueError, match=r"level 0: accuracy is 0\.2, must be above that of guessing"):
        retention_curve({0: first(20), 1: first(20)}, CollapseRule(chance={"logic": 0.25}))


def test_benchmarks_count_once_each() -> None:
    small = [replace(a, benchmark="aime") for a in first(5, of=10)]
    found = retention_curve({0: first(100) + small, 1: first(0) + small})
    assert [p.accuracy for p in found.points] == pytest.approx([0.75, 0.25])


def test_only_problems_answered_at_every_level_count() -> None:
    failed = answers_of([None] * 50 + [1] * 50)
    found = retention_curve({0: first(80), 1: failed})
    assert found.num_problems == 50
    assert found.points[0].accuracy == pytest.approx(0.6)


def test_stories_are_resampled_whole() -> None:
    def in_stories(answers: Sequence[Answer]) -> list[Answer]:
        return [replace(a, cluster=str(int(a.problem_id) // 10)) for a in answers]

    alone = retention_curve({0: first(80), 1: first(50)}).points[1]
    stories = retention_curve({0: in_stories(first(80)), 1: in_stories(first(50))}).points[1]
    assert stories.high - stories.low > 1.5 * (alone.high - alone.low)


def test_interval_of_retention_covers_the_truth() -> None:
    rng = random.Random(0)
    covered = 0
    for _ in range(100):
        base = [rng.random() < 0.8 for _ in range(60)]
        kept = [right and rng.random() < 0.6 for right in base]
        levels = {0: answers_of([int(b) for b in base]), 1: answers_of([int(k) for k in kept])}
        point = retention_curve(levels, CollapseRule(num_resamples=300)).points[1]
        covered += point.low <= 0.6 <= point.high
    assert 0.9 <= covered / 100 <= 0.99


def test_knowledge_falls_first() -> None:
    knowledge = [replace(a, benchmark="recall") for a in first(80)], [replace(a, benchmark="recall") for a in first(10)]
    found = compare_collapse({0: knowledge[0], 0.5: knowledge[1]}, {0: first(80), 0.5: first(70)})
    assert found.knowledge_first > 0.99
    assert found.knowledge.collapse is not None and found.reasoning.collapse is None
    same = compare_collapse({0: first(80), 0.5: first(10)}, {0: first(80), 0.5: first(10)})
    assert same.knowledge_first == 0.5


def test_what_is_no_curve_is_refused() -> None:
    with pytest.raises(ValueError, match="number of levels is 1, must be at least 2"):
        retention_curve({0: first(1)})
    with pytest.raises(ValueError, match="no problem was answered at every level"):
        retention_curve({0: first(1), 1: [replace(a, benchmark="x") for a in first(1)]})


class TestCommand:
    def folders(self, tmp_path: Path) -> list[str]:
        """Recall falls to a tenth at level 0.5, logic and temporal hold."""
        arguments = []
        for level, recalled, reasoned in ((0, 80, 90), (0.3, 60, 88), (0.5, 8, 85)):
            parts = [replace(a, benchmark="recall") for a in first(recalled)]
            for name in ("temporal", "logic"):
                parts += [replace(a, benchmark=name) for a in first(reasoned)]
            spec = SPEC | {"benchmarks": dict.fromkeys(("recall", "logic", "temporal"), SPEC["benchmarks"]["logic"])}
            arguments.append(f"{level}={write_folder(tmp_path / str(level), parts, spec)}")
        return arguments

    def test_table_has_each_benchmark_in_the_runs_order_and_the_means_of_its_kind(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["collapse", *self.folders(tmp_path)]) == 0
        out, err = capsys.readouterr()
        assert [line.split(" ")[0] for line in out.splitlines()][:5] == [
            "retention", "recall", "logic", "temporal", "reasoning",
        ]  # fmt: skip
        assert "knowledge collapses first in 100% of resamples" in out and "> 0.5" in out and err == ""

    def test_json_is_one_object(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["collapse", *self.folders(tmp_path), "--json", "--threshold", "0.9"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert document["rule"]["threshold"] == 0.9
        assert 0 < document["curves"]["recall"]["collapse"] < 0.3
        assert document["curves"]["reasoning"]["num_problems"] == 200

    @pytest.mark.parametrize(
        ("bad", "named"),
        [
            (["many={a}"], "level is 'many', must be a number"),
            (["0={a}"], "1 level is given"),
            (["0={a}", "0={a}"], "level 0 stands there twice"),
            (["0={a}", "1={a}/none"], "none/spec.json: no such file"),
            (["0={a}", "1={a}", "--chance", "recal=0.1"], "nearest is 'recall'"),
            (["0={a}", "1={a}", "--chance", "recall=0.9"], "must be above that of guessing"),
        ],
    )
    def test_bad_input_is_one_line(
        self, bad: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        a = self.folders(tmp_path)[0].partition("=")[2]
        assert main(["collapse", *(text.format(a=a) for text in bad)]) == 2
        out, err = capsys.readouterr()
        assert named in err and err.count("\n") == 1 and out == ""

    def test_a_level_without_its_folder_is_refused(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit, match="2"):
            main(["collapse", "0"])
        assert "is '0', must be NAME=VALUE" in capsys.readouterr().err
