"""Prompts, exemplars and recorded answers."""

import json
from pathlib import Path

import pytest
import yaml

from qedistill import prompts
from qedistill.errors import UserError
from qedistill.feedback import Pair
from qedistill.generation.recorded import read_answers
from qedistill.generation.teacher import teach, teacher_requests
from qedistill.params import Collection, load_params
from qedistill.tally import Tally
from qedistill.training.data import dpo_rows, sft_rows, student_prompt

ROOT = Path(__file__).parents[1]
PARAMS = load_params(ROOT / "profiles/pyapi.yaml")
ENGLISH = PARAMS.collection
CHINESE = Collection(**(ENGLISH.model_dump() | {"language": "zh", "document": "一段百科文字"}))
QUERIES = {"a": "first need", "b": "second need", "c": "third need"}


def test_zero_shot_is_the_teachers_recorded_prompt() -> None:
    (message,) = prompts.zero_shot("sort a list", ENGLISH, 60)
    assert message["content"] == (
        "Write an entry of a Python API reference (standard library, NumPy, pandas, SciPy or scikit-learn) "
        "that answers the query.\nUse the exact terms such a text would use. At most 60 words; "
        "output only the passage.\n\nQuery: sort a list\nPassage:"
    )


def test_few_shot_shows_exemplars_before_the_query() -> None:
    exemplars = [prompts.Exemplar("a", "first need", "d2", "two two")]
    (message,) = prompts.few_shot("sort a list", exemplars, ENGLISH, 60)
    assert message["content"].endswith("\n\nQuery: first need\nPassage: two two\n\nQuery: sort a list\nPassage:")


def test_chinese_prompts() -> None:
    (message,) = prompts.zero_shot("北京在哪里", CHINESE, 60)
    assert message["content"].endswith("查询：北京在哪里\n段落：")
    system, user = prompts.student("北京在哪里", "short", CHINESE, 24)
    assert system["role"] == "system" and user == {"role": "user", "content": "北京在哪里"}


def test_a_language_without_templates_is_named() -> None:
    with pytest.raises(UserError, match="no prompt templates for 'fi'"):
        prompts.zero_shot("x", ENGLISH.model_copy(update={"language": "fi"}), 60)


def test_a_prompt_file_is_checked(tmp_path: Path) -> None:
    good = yaml.safe_load((ROOT / "prompts/en.yaml").read_text())
    cases = [
        ({"query": "Query:"}, r"query: has the placeholders none, needs \{query\}"),
        ({"instruction": "{document} {max_words} {quer}"}, "instruction: has the placeholders"),
        ({"query": "{query:d}"}, "query: a placeholder is more than a name"),
        ({"short": "Write {"}, "short: .*write {{ or }} for a brace"),
        ({"extra": "x"}, "extra: Extra inputs are not permitted"),
        ({"passage": 3}, "passage: Input should be a valid string"),
        ({"passage": "{passage}\x1b[2J"}, "passage: holds control characters"),
    ]
    for number, (change, message) in enumerate(cases):
        (tmp_path / f"x{number}.yaml").write_text(yaml.safe_dump(good | change))
        with pytest.raises(UserError, match=message):
            prompts.load_templates(f"x{number}", tmp_path)
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(UserError, match="bad.yaml:1: not YAML"):
        prompts.load_templates("bad", tmp_path)


def test_every_prompt_file_is_valid() -> None:
    for path in (ROOT / "prompts").glob("*.yaml"):
        assert prompts.load_templates(path.stem, ROOT / "prompts").short


def record(query_id: str, sample: int, text: str = "an answer") -> dict[str, object]:
    return {"query_id": query_id, "style": "zero_shot", "sample": sample, "text": text}


def write(path: Path, records: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def test_recordings_in_the_order_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "zero_shot.jsonl", [record("b", 0), record("a", 1), record("a", 0), record("x", 0)])
    answers = read_answers(path, {"a": 2, "b": 1})
    assert [(a["query_id"], a["sample"]) for a in answers] == [("a", 0), ("a", 1), ("b", 0)]


def test_a_few_recordings_may_be_missing(tmp_path: Path) -> None:
    path = write(tmp_path / "zero_shot.jsonl", [record("a", 0), record("b", 0), record("b", 1)])
    assert len(read_answers(path, {"a": 2, "b": 2}, tolerance=0.25)) == 3
    with pytest.raises(UserError, match="1 of 4 answers are missing"):
        read_answers(path, {"a": 2, "b": 2}, tolerance=0.24)


def test_missing_recordings_are_counted_and_named(tmp_path: Path) -> None:
    path = write(tmp_path / "zero_shot.jsonl", [record("a", 0)])
    with pytest.raises(UserError, match=r"3 of 4 answers are missing, of 2 queries \(a, b\)"):
        read_answers(path, {"a": 2, "b": 2})


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (record("a", 0), "stands twice"),
        (record("a", 1, " "), "no text"),
        ({"query_id": "a", "text": "x"}, "sample .* needed"),
        (record("a", 1) | {"sample": True}, "sample .* needed"),
        (record("a", 1) | {"sample": 1.5}, "sample .* needed"),
        (record("a", -1), "sample .* needed"),
        (record("a", 10**30), "sample .* needed"),
        (record("a", 1) | {"query_id": ["a"]}, "query_id .* needed"),
        (record("a", 1) | {"query_id": True}, "query_id .* needed"),
        (record("a", 1) | {"query_id": ""}, "query_id .* needed"),
        (record("a", 1) | {"text": ["an", "answer"]}, "no text"),
        (record("a", 1) | {"text": None}, "no text"),
        (record("a", 1, "\u200b\ufeff"), "no text"),
    ],
)
def test_bad_recordings(tmp_path: Path, bad: dict[str, object], message: str) -> None:
    path = write(tmp_path / "zero_shot.jsonl", [record("a", 0), bad])
    with pytest.raises(UserError, match=f"record 2.*{message}"):
        read_answers(path, {"a": 1})


def test_what_recordings_lose_is_counted(tmp_path: Path) -> None:
    figures = {"model": "m", "prompt_tokens": 5, "completion_tokens": 7, "seconds": 0.5}
    odd = {"model": 3, "prompt_tokens": "5", "completion_tokens": -7, "seconds": 1e300, "style": ["x"], "more": 1}
    records = [
        record("7", 0) | {"query_id": 7} | figures,  # as pandas writes ids
        record("a", 0, "an\x1b[31m answer\n\ud83d") | odd,
        record("a", 1) | {"prompt_tokens": True, "seconds": float("nan")},
        record("x", 0),
    ]
    told = Tally()
    answers = read_answers(write(tmp_path / "zero_shot.jsonl", records), {"7": 1, "a": 2, "b": 1}, 0.25, told)
    assert answers == [
        {"query_id": "7", "sample": 0, "text": "an answer"} | figures,
        {"query_id": "a", "sample": 0, "text": "an answer \ufffd"},
        {"query_id": "a", "sample": 1, "text": "an answer"},
    ]
    assert told.counts == {
        "recorded answers cleaned: characters that no file can hold": 1,
        "recorded answers without their model: not of its type": 1,
        "recorded answers without their prompt_tokens: not of its type": 2,
        "recorded answers without their completion_tokens: not of its type": 1,
        "recorded answers without their seconds: not of its type": 2,
        "recorded answers missing, within teacher.tolerance": 1,
        "recorded answers passed over: not asked for": 1,
    }


def test_recorded_answers_that_look_of_no_use_are_kept_and_told(tmp_path: Path) -> None:
    write(tmp_path / "zero_shot.jsonl", [record("a", 0, "I'm sorry, but I can't help with that."), record("b", 0)])
    params = PARAMS.model_copy(
        update={"teacher": PARAMS.teacher.model_copy(update={"recordings": str(tmp_path), "samples": 1})}
    )
    asked = {"zero_shot": teacher_requests("zero_shot", {"a": "copy a file", "b": "sort"}, {}, {}, params)}
    told = Tally()
    records, figures, _ = teach("zero_shot", asked, params, Path("unused"), told)
    assert len(records) == 2 and figures["told"] == {"recorded_answers_kept_that_look_of_no_use_refusal": 1}
    assert told.lines() == ["1 recorded answers kept that look of no use: refusal (a)"]


def test_the_recorded_teacher_of_pyapi_is_whole() -> None:
    learning, testing = {"core-002": "…"}, {"core-001": "…"}
    params = PARAMS.model_copy(
        update={"teacher": PARAMS.teacher.model_copy(update={"recordings": str(ROOT / "recordings/pyapi/teacher")})}
    )
    for style in prompts.STYLES:
        asked = {style: teacher_requests(style, learning, testing, {}, params)}
        answers, _, calls = teach(style, asked, params, Path("unused"))
        assert calls == 0
        assert [(a["query_id"], a["sample"]) for a in answers] == [("core-001", 0), ("core-002", 0), ("core-002", 1)]


def test_exemplars_get_no_few_shot_answer() -> None:
    params = PARAMS.model_copy(
        update={"teacher": PARAMS.teacher.model_copy(update={"recordings": str(ROOT / "recordings/pyapi/teacher")})}
    )
    exemplars = {prompts.EVERY: [prompts.Exemplar("dev-020", "…", "ast.literal_eval", "…")]}
    asked = {s: teacher_requests(s, {"dev-020": "…", "core-002": "…"}, {}, exemplars, params) for s in prompts.STYLES}
    answers, figures, _ = teach("few_shot", asked, params, Path("unused"))
    assert {a["query_id"] for a in answers} == {"core-002"} and figures["answers"] == 2
    assert {r.query_id for r in asked["zero_shot"]} == {"dev-020", "core-002"}


def test_a_query_is_shown_its_own_exemplars_within_the_budget() -> None:
    exemplars = {"a": [prompts.Exemplar(f"e{n}", f"need {n}", "d", "word " * 40) for n in range(3)]}

    def prompt(max_tokens: int | None) -> str:
        wanted = PARAMS.teacher.exemplars.model_copy(update={"max_tokens": max_tokens})
        teacher = PARAMS.teacher.model_copy(update={"exemplars": wanted, "samples": 1})
        params = PARAMS.model_copy(update={"teacher": teacher})
        (request,) = teacher_requests("few_shot", {"a": "mine"}, {}, exemplars, params)
        return request.messages[0]["content"]

    assert [name in prompt(None) for name in ("need 0", "need 1", "need 2")] == [True, True, True]
    # Some 60 tokens of instruction and query, 55 an exemplar: the last ones, the nearest, stay.
    assert [name in prompt(200) for name in ("need 0", "need 1", "need 2")] == [False, True, True]
    assert [name in prompt(20) for name in ("need 0", "need 1", "need 2")] == [False, False, False]


def test_requests_carry_what_determines_the_answer() -> None:
    api = PARAMS.teacher.api.model_copy(
        update={"extra_body": {"top_p": 0.9, "max_tokens": None, "think": {"on": False}}}
    )
    teacher = PARAMS.teacher.model_copy(update={"generator": "api", "model": "m", "api": api})
    asked = teacher_requests("zero_shot", {"a": "x"}, {"b": "y"}, {}, PARAMS.model_copy(update={"teacher": teacher}))
    assert [(r.query_id, r.sample) for r in asked] == [("b", 0), ("a", 0), ("a", 1)]
    assert asked[0].options == {"temperature": 0.8, "top_p": 0.9, "think": {"on": False}} and asked[0].model == "m"
    assert len({r.key for r in asked}) == 3


def test_the_base_is_told_what_a_trained_student_knows() -> None:
    user = {"role": "user", "content": "sort a list"}
    asked = PARAMS.student.model_copy(update={"prompt": "query"})
    assert student_prompt("sort a list", asked, ENGLISH) == [user]
    system, last = student_prompt("sort a list", asked, ENGLISH, trained=False)
    assert system["role"] == "system" and system["content"] and last == user
    full = asked.model_copy(update={"prompt": "full"})
    assert student_prompt("sort a list", full, ENGLISH) == student_prompt("sort a list", full, ENGLISH, trained=False)


def test_sft_rows_cut_and_take_the_first_samples() -> None:
    student = PARAMS.student.model_copy(update={"max_words": 2})
    answers = [record("a", 0, "one two three"), record("a", 1, "more"), record("z", 0, "not asked for")]
    (row,) = sft_rows(QUERIES, answers, 1, student, ENGLISH)
    assert row["completion"] == [{"role": "assistant", "content": "one two"}]
    assert row["prompt"][-1] == {"role": "user", "content": "first need"}


def test_rows_that_teach_nothing_are_counted() -> None:
    answers = [{"query_id": "a", "sample": 0, "text": text} for text in ("...", "words")]
    tally = Tally()
    assert len(sft_rows(QUERIES | {"z": "asked of nobody"}, answers, 1, PARAMS.student, ENGLISH, tally)) == 1
    assert tally.figures() == {
        "answers_left_out_without_words": 1,
        "queries_without_a_row_none_of_their_answers_is_there_and_of_use": len(QUERIES),
    }
    best = {"query_id": "a", "style": "student", "sample": 0, "ndcg@10": 1.0}
    worst = best | {"sample": 1, "ndcg@10": 0.0}
    texts = [("same words", "same  words"), ("", "words"), ("words", "")]
    pairs = [Pair(best | {"text": chosen}, worst | {"text": rejected}) for chosen, rejected in texts]
    tally = Tally()
    (row,) = dpo_rows(QUERIES, pairs, PARAMS.student, ENGLISH, tally)
    assert row["rejected"][0]["content"] == "" and set(tally.figures().values()) == {1} and len(tally.counts) == 2


def test_dpo_rows_can_be_audited() -> None:
    chosen = record("a", 1, "good") | {"ndcg@10": 0.9, "baseline": 0.1}
    rejected = record("a", 0, "bad") | {"ndcg@10": 0.2, "baseline": 0.1}
    (row,) = dpo_rows(QUERIES, [Pair(chosen, rejected)], PARAMS.student, ENGLISH)
    assert {key: row[key] for key in ("query_id", "chosen_score", "rejected_score", "chosen_from", "rejected_from")} == {
        "query_id": "a", "chosen_score": 0.9, "rejected_score": 0.2,
        "chosen_from": "zero_shot/1", "rejected_from": "zero_shot/0",
    }  # fmt: skip
    assert row["chosen"] == [{"role": "assistant", "content": "good"}]
