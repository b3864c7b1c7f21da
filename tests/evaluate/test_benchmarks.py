import json
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from evaluate.benchmarks import BENCHMARKS, load_benchmark
from evaluate.benchmarks.aime import INSTRUCTION
from evaluate.benchmarks.files import HubFile
from evaluate.errors import BadInput
from evaluate.schema import Kind, Outcome

GENERATED = [name for name, spec in BENCHMARKS.items() if spec.generated]
FILES = {
    "temporal_sequences": ("bbh/temporal_sequences.json", 250),
    "aime": ("aime24/aime24.jsonl", 30),
    "folio": ("folio/folio-validation.jsonl", 204),
    "musique": ("musique/random_100_musique.json", 100),
    "musique_open": ("musique/random_100_musique.json", 100),
}
ROW: dict[str, dict[str, Any]] = {
    "temporal_sequences": {"input": "When?\nOptions:\n(A) 1pm to 2pm\n(B) 2pm to 3pm", "target": "(A)"},
    "aime": {"id": "x", "problem": "What?", "answer": "025"},
    "folio": {"premises": ["P is.", "Q is. "], "conclusion": "P is not.", "label": "False"},
    "musique": {"id": "2hop__1_2", "question": "Who?", "answer": "A B", "answer_aliases": ["C"]},
    "musique_open": {
        **{"id": "2hop__1_2", "question": "Who?", "answer": "A B", "answer_aliases": ["C"]},
        "paragraphs": [{"title": "T", "paragraph_text": "It is A B.", "is_supporting": True}],
    },
    "gsm8k": {"question": "How many?", "answer": "It is 1,000+80=<<1000+80=1080>>1080.\n#### 1,080"},
    "math_500": {"problem": "What?", "answer": "\\frac{1}{2}", "subject": "Algebra", "level": 2, "unique_id": "a/1"},
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
        pieces = [row["question"]] if name.startswith("musique") else pieces
        assert any(all(piece in question for piece in pieces) for question in asked)


def test_bbh_problem_is_its_input_and_its_index(test_data: Path) -> None:
    path = test_data / "bbh" / "temporal_sequences.json"
    rows = json.loads(path.read_text())["examples"]
    for problem in load_benchmark("temporal_sequences", file=path).problems:
        row = rows[int(problem.problem_id)]
        assert (problem.question, problem.reference) == (row["input"], row["target"])
        assert problem.options is not None and problem.options.startswith("Options:\n(A) ")


@pytest.mark.parametrize("name", ROW)
def test_subset_is_a_prefix_of_the_shared_order(name: str, tmp_path: Path) -> None:
    rows = [{**ROW[name], "id": f"2hop__{i}", "unique_id": f"test/_{i}"} for i in range(20)]
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
    assert (problems[0].group, problems[0].metadata["question"]) == ("2 hops", "Who?")


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
        ("aime", '{"id": "1", "problem": "a", "answer": "1"}\n' * 2, "line 2: key 'id': id '1' stands there twice"),
        ("aime", '[\n {"problem": "a",\n "answer": 1},\n {"problem": \n]', "line 5: no valid JSON"),
        ("aime", '{"problem": "a", "answer": 1.5}\n', "line 1: key 'answer' is 1.5, must be a text"),
        ("gsm8k", '{"question": "a", "answer": "so many"}\n', "line 1: key 'answer': reference is 'so many', must be"),
        ("gsm8k", '{"problem": "a", "answer": "1"}\n', "line 1: key 'question' is missing"),
        ("math_500", '{"problem": "a", "answer": ""}\n', "line 1: key 'answer' is"),
        ("musique_open", '{"id": "2hop__1", "question": "q", "answer": "a"}\n', "line 1: key 'paragraphs' is missing"),
        (
            "musique_open",
            '{"id": "1", "question": "q", "answer": "a", "paragraphs": [{}]}',
            "paragraphs 0: key 'title'",
        ),
        ("musique", '{"id": "1", "question": "q", "answer": "a", "answerable": false}', "no problem that can be asked"),
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
        (
            "musique",
            '[{"id": "1", "question": "q", "answer": "a", "answer_aliases": [""]}]',
            "key 'answer_aliases': ref",
        ),
        ("gsm8k", '{"question": "a", "answer": "#### many"}\n', "line 1: key 'answer': reference is 'many', must be"),
        ("folio", '{"premises": [], "conclusion": "c", "label": "True"}\n', "line 1: key 'premises' is []"),
        (
            "temporal_sequences",
            json.dumps({"examples": [{"input": "x", "target": "(A)"}]}),
            "item 0: key 'input' lists no options, must end in",
        ),
        ("aime", "[" * 100_000, "line 1: no valid JSON (nested too deeply)"),
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
    (tmp_path / "d.jsonl.gz").write_bytes(b"\x1f\x8b\x08\x00")
    (tmp_path / "e.json").mkdir()
    (tmp_path / "f.jsonl").write_bytes(b'{}\n"\xe9"\n')
    for name, named in (
        ("a.jsonl", "no such file"),
        ("b.jsonl", "UTF-8"),
        ("c.parquet", "Parquet"),
        ("d.jsonl.gz", "is packed by gzip; unpack it first"),
        ("e.json", "is a folder, must be a file"),
        ("f.jsonl", "line 2: is no UTF-8 text"),
    ):
        with pytest.raises(BadInput, match=named):
            load_benchmark("aime", file=tmp_path / name)


def test_unknown_benchmark_is_refused_with_the_nearest() -> None:
    with pytest.raises(BadInput, match="nearest is 'temporal_sequences'"):
        load_benchmark("temporal_sequence")


def test_number_of_problems_is_at_least_one() -> None:
    with pytest.raises(BadInput, match="must be at least 1"):
        load_benchmark("logic", num_problems=0)


@pytest.mark.parametrize("name", ROW)
def test_hub_out_of_reach_names_the_way_out(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use_cache(monkeypatch, tmp_path)
    with pytest.raises(BadInput, match=rf"^hub:.*{name}=FILE"):
        load_benchmark(name)


def use_cache(monkeypatch: pytest.MonkeyPatch, folder: Path, *files: tuple[HubFile, bytes]) -> None:
    """Makes `folder` the hub's cache, offline, with these files as its client lays them down."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    for hub, content in files:
        repo = folder / f"datasets--{hub.repo.replace('/', '--')}"
        path = repo / "snapshots" / "abc" / hub.filename
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        (repo / "refs").mkdir()
        (repo / "refs" / "main").write_text("abc")


@pytest.mark.parametrize("name", ["folio", "math_500"])
def test_the_hubs_file_is_read_from_its_cache(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub = import_module(f"evaluate.benchmarks.{name}").HUB
    use_cache(monkeypatch, tmp_path / "cache", (hub, json.dumps(ROW[name]).encode()))
    from_hub = load_benchmark(name)
    from_file = load_benchmark(name, file=write(tmp_path / "a.jsonl", ROW[name]))
    assert from_hub.problems == from_file.problems
    assert from_hub.source.startswith(f"hub:{hub.repo}/{hub.filename} sha256:")


def test_parquet_of_the_hub_is_read_from_its_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.Table.from_pylist([ROW["gsm8k"]]), tmp_path / "a.parquet")
    hub = import_module("evaluate.benchmarks.gsm8k").HUB
    use_cache(monkeypatch, tmp_path / "cache", (hub, (tmp_path / "a.parquet").read_bytes()))
    assert [p.reference for p in load_benchmark("gsm8k").problems] == ["1,080"]


@pytest.mark.parametrize("name", ["musique", "musique_open"])
def test_the_studys_hundred_are_picked_from_the_hubs_set(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, test_data: Path
) -> None:
    rows = json.loads((test_data / FILES["musique"][0]).read_text())
    other = {**ROW["musique_open"], "id": "2hop__0_0"}
    hub = import_module("evaluate.benchmarks.musique").HUB
    lines = [json.dumps(row).encode() for row in [other, *rows]]
    use_cache(monkeypatch, tmp_path / "whole", (hub, b"\n".join(lines)))
    picked = load_benchmark(name)
    assert len(picked.problems) == 100 and picked.source.endswith(", the study's 100 questions")
    use_cache(monkeypatch, tmp_path / "less", (hub, b"\n".join(lines[:-1])))
    with pytest.raises(BadInput, match=r"lacks the study's question .*musique=FILE"):
        load_benchmark(name)
    changed = json.dumps({**rows[-1], "answer": "something else"}).encode()
    use_cache(monkeypatch, tmp_path / "changed", (hub, b"\n".join([*lines[:-1], changed])))
    with pytest.raises(BadInput, match="is not the study's text"):
        load_benchmark(name)


def test_a_file_says_how_many_of_the_studys_questions_it_holds(tmp_path: Path, test_data: Path) -> None:
    path = test_data / FILES["musique"][0]
    assert load_benchmark("musique", file=path).source.endswith("the study's 100 questions")
    file = write(tmp_path / "a.jsonl", ROW["musique"], json.loads(path.read_text())[0])
    assert load_benchmark("musique", file=file).source.endswith("1 of the study's 100 questions among 2")


def test_open_book_shows_every_passage_before_the_question(test_data: Path) -> None:
    path = test_data / FILES["musique"][0]
    rows = {row["id"]: row for row in json.loads(path.read_text())}
    for problem in load_benchmark("musique_open", file=path).problems:
        row = rows[problem.problem_id]
        places = [problem.question.index(f"{p['title']}\n{p['paragraph_text']}") for p in row["paragraphs"]]
        assert max(places) < problem.question.index(f"Question: {row['question']}")
    groups = Counter(p.group for p in load_benchmark("musique", file=path).problems)
    assert groups == {"2 hops": 49, "3 hops": 32, "4 hops": 19}


def test_folio_has_73_stories(test_data: Path) -> None:
    problems = load_benchmark("folio", file=test_data / FILES["folio"][0]).problems
    assert len({p.metadata["story_id"] for p in problems}) == 73


def test_folio_v2_labels_load_with_made_texts(tmp_path: Path, test_data: Path) -> None:
    """The gated texts are not at hand: the labels of v2 stand over the premises of v0.0, in v2's columns."""
    old = [json.loads(line) for line in (test_data / FILES["folio"][0]).read_text().splitlines()]
    labels = (test_data / "folio" / "folio_v2_validation_labels.jsonl").read_text().splitlines()
    rows = []
    for record in map(json.loads, labels):
        row = old[record["v0_index"]]
        made = {"premises": "\n".join(row["premises"]), "conclusion": row["conclusion"], "label": record["label"]}
        rows.append({"story_id": record["v2_index"] // 3, "example_id": record["v2_index"], **made})
    benchmark = load_benchmark("folio", file=write(tmp_path / "folio_v2_validation.jsonl", *rows))
    assert len(benchmark.problems) == BENCHMARKS["folio"].num_problems == 203
    assert {p.problem_id: p.reference for p in benchmark.problems} == {
        str(i): row["label"] for i, row in enumerate(rows)
    }


@pytest.mark.parametrize(
    ("row", "problem_id", "reference"),
    [
        ({"problem_idx": 3, "problem": "p", "answer": 70, "problem_type": ["Algebra"]}, "3", "70"),
        ({"question": "p", "answer": "336^\\circ"}, "0", "336^\\circ"),
        ({"id": "2025-I-1", "problem": "p", "answer": "070", "year": 2025, "url": "u"}, "2025-I-1", "070"),
        ({"id": "x", "problem": "p", "answer": 70.0}, "x", "70"),
    ],
)
def test_aime_of_other_years_by_file(row: dict[str, Any], problem_id: str, reference: str, tmp_path: Path) -> None:
    problem = load_benchmark("aime", file=write(tmp_path / "aime25.jsonl", row)).problems[0]
    assert (problem.problem_id, problem.reference) == (problem_id, reference)


def test_gsm8k_and_math_500_read_their_publishers_rows(tmp_path: Path) -> None:
    gsm8k = load_benchmark("gsm8k", file=write(tmp_path / "a.jsonl", ROW["gsm8k"]))
    assert gsm8k.grade("So 1080 in all.\n#### 1080", "stop", gsm8k.problems[0]).outcome is Outcome.CORRECT
    assert gsm8k.grade(r"\boxed{\$1{,}080.00}", "stop", gsm8k.problems[0]).outcome is Outcome.CORRECT
    math = load_benchmark("math_500", file=write(tmp_path / "b.jsonl", ROW["math_500"]))
    assert (math.problems[0].problem_id, math.problems[0].group) == ("a/1", "level 2")
    assert math.grade(r"\boxed{0.5}", "stop", math.problems[0]).outcome is Outcome.CORRECT
