import json
from pathlib import Path
from typing import Any

import pytest

from evaluate.benchmarks import BENCHMARKS, load_benchmark
from evaluate.benchmarks.aime import INSTRUCTION
from evaluate.errors import BadInput
from evaluate.schema import Kind, Outcome

GENERATED = [name for name, spec in BENCHMARKS.items() if spec.generated]
FILES = {
    "temporal_sequences": ("bbh/temporal_sequences.json", 250),
    "aime": ("aime24/aime24.jsonl", 30),
    "folio": ("folio/folio-validation.jsonl", 204),
    "musique": ("musique/random_100_musique.json", 100),
}
ROW: dict[str, dict[str, Any]] = {
    "temporal_sequences": {"input": "When?\nOptions:\n(A) 1pm to 2pm\n(B) 2pm to 3pm", "target": "(A)"},
    "aime": {"id": "x", "problem": "What?", "answer": "025"},
    "folio": {"premises": ["P is.", "Q is. "], "conclusion": "P is not.", "label": "False"},
    "musique": {"id": "2hop__1_2", "question": "Who?", "answer": "A B", "answer_aliases": ["C"]},
}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_recall_and_musique_are_knowledge_the_others_reasoning() -> None:
    knowledge = {name for name, spec in BENCHMARKS.items() if spec.kind is Kind.KNOWLEDGE}
    assert knowledge == {"recall", "musique"}


@pytest.mark.parametrize("name", FILES)
def test_publishers_files_load_whole_with_their_text_verbatim(name: str, test_data: Path) -> None:
    file, num_problems = FILES[name]
    benchmark = load_benchmark(name, file=test_data / file)
    assert len(benchmark.problems) == num_problems
    assert "sha256:" in benchmark.source
    text = (test_data / file).read_text()
    rows = json.loads(text) if file.endswith("json") else [json.loads(line) for line in text.splitlines()]
    rows = rows["examples"] if isinstance(rows, dict) else rows
    asked = {p.question for p in benchmark.problems}
    for row in rows:
        pieces = [*row["premises"], row["conclusion"]] if name == "folio" else [row.get("input") or row.get("problem")]
        pieces = [row["question"]] if name == "musique" else pieces
        assert any(all(piece in question for piece in pieces) for question in asked)


def test_bbh_problem_is_its_input_and_its_index(test_data: Path) -> None:
    path = test_data / "bbh" / "temporal_sequences.json"
    rows = json.loads(path.read_text())["examples"]
    for problem in load_benchmark("temporal_sequences", file=path).problems:
        row = rows[int(problem.problem_id)]
        assert (problem.question, problem.reference) == (row["input"], row["target"])
        assert problem.options is not None and problem.options.startswith("Options:\n(A) ")


@pytest.mark.parametrize("name", FILES)
def test_subset_is_a_prefix_of_the_shared_order(name: str, tmp_path: Path) -> None:
    rows = [{**ROW[name], "id": f"2hop__{i}"} for i in range(20)]
    whole = load_benchmark(name, file=write(tmp_path / "a.jsonl", *rows)).problems
    assert load_benchmark(name, file=tmp_path / "a.jsonl", num_problems=7).problems == whole[:7]
    assert load_benchmark(name, file=tmp_path / "a.jsonl", num_problems=999).problems == whole
    assert [p.problem_id for p in whole] != sorted((p.problem_id for p in whole), key=lambda i: int(i.split("_")[-1]))


def test_order_does_not_depend_on_the_files(tmp_path: Path) -> None:
    rows = [{**ROW["aime"], "id": str(i)} for i in range(9)]
    forward = load_benchmark("aime", file=write(tmp_path / "a.jsonl", *rows))
    backward = load_benchmark("aime", file=write(tmp_path / "b.jsonl", *rows[::-1]))
    assert forward.problems == backward.problems
    assert forward.fingerprint == backward.fingerprint


def test_fingerprint_sees_ids_questions_and_references(tmp_path: Path) -> None:
    prints = set()
    for change in ({}, {"id": "y"}, {"problem": "Why?"}, {"answer": "26"}):
        file = write(tmp_path / "a.jsonl", {**ROW["aime"], **change})
        prints.add(load_benchmark("aime", file=file).fingerprint)
    assert len(prints) == 4


@pytest.mark.parametrize("name", GENERATED)
def test_generated_questions_are_lasting_and_prefixes(name: str) -> None:
    ten = load_benchmark(name, num_problems=10)
    assert load_benchmark(name, num_problems=10) == ten
    assert load_benchmark(name, num_problems=4).problems == ten.problems[:4]
    assert len({p.problem_id for p in ten.problems}) == 10
    with pytest.raises(BadInput, match="num_problems must be given"):
        load_benchmark(name)
    with pytest.raises(BadInput, match="reads no file"):
        load_benchmark(name, file=Path("x.jsonl"), num_problems=3)


@pytest.mark.parametrize("name", GENERATED)
def test_generated_teacher_texts_are_graded_correct(name: str) -> None:
    from importlib import import_module

    benchmark = load_benchmark(name, num_problems=1)
    for item in import_module(f"evaluate.benchmarks.{name}").generate("train", 100, 7):
        assert benchmark.grade(item.completion, "stop", item.problem).outcome is Outcome.CORRECT


def test_aime_reads_the_ways_its_publishers_write_it(tmp_path: Path) -> None:
    for row in ({"problem": "What?", "answer": 25}, {"Problem": "What?", "Answer": "025", "ID": "2024-I-1"}):
        problem = load_benchmark("aime", file=write(tmp_path / "a.jsonl", row)).problems[0]
        assert problem.question == f"What?\n\n{INSTRUCTION}"


def test_folio_v2_has_its_premises_in_one_text(tmp_path: Path) -> None:
    v0 = load_benchmark("folio", file=write(tmp_path / "v0.jsonl", ROW["folio"])).problems[0]
    row = {**ROW["folio"], "premises": "P is.\nQ is. ", "story_id": 1, "example_id": 9}
    v2 = load_benchmark("folio", file=write(tmp_path / "v2.jsonl", row)).problems[0]
    assert (v2.question, v2.reference) == (v0.question, v0.reference)
    assert v2.metadata["story_id"] == "1"


def test_musique_leaves_unanswerable_questions_out(tmp_path: Path) -> None:
    rows = [{**ROW["musique"], "answerable": True}, {**ROW["musique"], "id": "2hop__9", "answerable": False}]
    problems = load_benchmark("musique", file=write(tmp_path / "a.jsonl", *rows)).problems
    assert [p.reference for p in problems] == [("A B", "C")]
    assert problems[0].metadata["hops"] == "2"


def test_parquet_is_read_too(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.Table.from_pylist([ROW["aime"]]), tmp_path / "a.parquet")
    write(tmp_path / "a.jsonl", ROW["aime"])
    problems = [load_benchmark("aime", file=tmp_path / f"a.{suffix}").problems for suffix in ("parquet", "jsonl")]
    assert problems[0] == problems[1]


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("aime", "", "holds no problem"),
        ("aime", "[]", "holds no problem"),
        ("aime", '{"id": "1"}\n', "line 1: key 'problem' (or 'question', 'Problem') is missing"),
        (
            "aime",
            '{"problem": "a", "answer": "1"}\n{"problem": "b"}\n',
            "line 2: key 'expected_answer' (or 'answer', 'Answer') is missing",
        ),
        ("aime", '{"problem": "", "answer": "1"}\n', "line 1: key 'problem' is"),
        ("aime", '{"problem": "a", "answer": "x"}\n', "line 1: key 'answer': reference is 'x', must be an integer"),
        ("aime", '{"id": "1", "problem": "a", "answer": "1"}\n' * 2, "id '1' stands there twice"),
        ("aime", '{"problem": "a", "answer": "1"}\nnot json\n', "line 2: no valid JSON"),
        ("aime", "[1, 2]", "item 0: is 1, must be an object"),
        ("temporal_sequences", '{"examples": 3}', "must hold a list"),
        ("temporal_sequences", json.dumps({"examples": [{"input": "x"}]}), "item 0: key 'target' is missing"),
        ("temporal_sequences", json.dumps({"examples": [{**ROW["temporal_sequences"], "target": "(C)"}]}), "(A)|A, B"),
        ("folio", '{"premises": [1], "conclusion": "c", "label": "True"}\n', "line 1: key 'premises'"),
        (
            "folio",
            '{"premises": ["p"], "conclusion": "c", "label": "Maybe"}\n',
            "must be one of True, False",
        ),
        ("folio", '{"premises": ["p"], "conclusion": "c"}\n', "line 1: key 'label' is missing"),
        ("musique", '[{"id": "2hop__1", "question": "q", "answer": "a", "answer_aliases": "b"}]', "'answer_aliases'"),
    ],
)
def test_bad_files_are_named_with_place_and_key(name: str, content: str, named: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(BadInput) as refusal:
        load_benchmark(name, file=path)
    message = str(refusal.value)
    assert message.startswith(str(path)) and "\n" not in message
    assert any(part in message for part in named.split("|"))


def test_missing_and_binary_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "c.parquet").write_bytes(b"no parquet")
    for name, named in (("a.jsonl", "no such file"), ("b.jsonl", "UTF-8"), ("c.parquet", "Parquet")):
        with pytest.raises(BadInput, match=named):
            load_benchmark("aime", file=tmp_path / name)


def test_unknown_benchmark_is_refused_with_the_nearest() -> None:
    with pytest.raises(BadInput, match="nearest is 'temporal_sequences'"):
        load_benchmark("temporal_sequence")


def test_number_of_problems_is_at_least_one() -> None:
    with pytest.raises(BadInput, match="must be at least 1"):
        load_benchmark("logic", num_problems=0)


@pytest.mark.parametrize("name", FILES)
def test_hub_out_of_reach_names_the_way_out(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BadInput, match=rf"^hub:.*{name}=FILE"):
        load_benchmark(name)
