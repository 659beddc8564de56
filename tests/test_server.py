"""The student on a server that speaks vLLM's protocol, against the same student in this process."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tiny import SENTENCES, make_tiny_student
from vllm_server import KEY

from qedistill.errors import UserError
from qedistill.generation.server import adapter_name
from qedistill.generation.student import expand
from qedistill.params import Params, load_params

HERE = Path(__file__).parent
QUERIES = {f"q{i}": text for i, text in enumerate(SENTENCES[:5])}


def make_adapter(folder: Path, base: Path, seed: int, rank: int = 4) -> Path:
    """Write a random adapter that changes what the base says; returns the folder."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from qedistill.training.model import save_adapter

    torch.manual_seed(seed)
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"
    )
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    save_adapter(model, AutoTokenizer.from_pretrained(base), folder)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder `models` of a base and two adapters. The base brings defaults of sampling, as many do."""
    folder = tmp_path_factory.mktemp("project") / "models"
    base = make_tiny_student(folder / "base")
    path = base / "generation_config.json"
    config = json.loads(path.read_text())
    defaults = {"do_sample": True, "temperature": 0.1, "top_k": 1, "top_p": 0.5, "repetition_penalty": 1.2}
    path.write_text(json.dumps(config | defaults | {"eos_token_id": [config["eos_token_id"], *range(20, 300, 12)]}))
    make_adapter(folder / "sft", base, 1)
    make_adapter(folder / "dpo", base, 2)
    return folder


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[str]:
    """The address before the name of a variant."""
    process = subprocess.Popen(
        [sys.executable, HERE / "vllm_server.py", models / "base"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    process.kill()
    process.communicate()


@pytest.fixture(autouse=True)
def alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process computes in float32, as the server does."""
    import torch

    monkeypatch.setattr("qedistill.training.model.pick_dtype", lambda: torch.float32)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def with_params(address: str | None, variant: str = "usual", **changes: Any) -> Params:
    params = load_params(HERE.parent / "params.yaml").model_dump()
    usual = {"max_new_tokens": 12, "samples": 1, "temperature": 0.0, "batch_size": 4}
    place = {"server": address and f"{address}/{variant}/v1", "key_variable": None}
    params["generation"] |= usual | place | changes
    return Params.model_validate(params)


def written(student: Path, params: Params, queries: dict[str, str] = QUERIES) -> list[tuple[Any, ...]]:
    base = None if student.name == "base" else student.parent / "base"
    records, figures = expand(student, base, queries, params.generation.samples, params.generation.temperature, params)
    assert [(r["query_id"], r["sample"]) for r in records] == [
        (query, sample) for query in queries for sample in range(params.generation.samples)
    ]
    assert all("seconds" not in r and r["model"] == student.name and r["style"] == "student" for r in records)
    assert figures["tokens_per_query"] == sum(r["completion_tokens"] for r in records) / len(queries)
    return [(r["query_id"], r["text"], r["prompt_tokens"], r["completion_tokens"]) for r in records]


def test_greedy_answers_are_those_of_this_process(models: Path, server: str) -> None:
    here = {name: written(models / name, with_params(None)) for name in ("base", "sft", "dpo")}
    # Back to a student that the server has put aside, too.
    for name in ("base", "sft", "dpo", "base", "sft"):
        assert written(models / name, with_params(server)) == here[name]
    assert len({text for rows in here.values() for _, text, _, _ in rows}) > 10
    counts = [count for rows in here.values() for *_, count in rows]
    assert min(counts) < 12 == max(counts)  # both ends: by a token, and by the limit


def test_samples_are_several_and_the_same_again(models: Path, server: str) -> None:
    params = with_params(server, samples=3, temperature=1.0)
    first = written(models / "sft", params)
    assert len({text for _, text, _, _ in first}) > 10  # of 15: the base's top_k of 1 would give 5
    assert written(models / "sft", params) == first
    few = {query: QUERIES[query] for query in ("q3", "q1")}  # a query's samples do not depend on the others
    assert sorted(written(models / "sft", params, few)) == sorted(row for row in first if row[0] in few)
    other = Params.model_validate(params.model_dump() | {"seed": 7})
    assert written(models / "sft", other) != first


def test_an_adapter_trained_anew_is_not_taken_for_the_old_one(models: Path, server: str, tmp_path: Path) -> None:
    shutil.copytree(models / "base", tmp_path / "base")
    student = tmp_path / "dpo"
    found = []
    for seed in (5, 6, 5):
        shutil.rmtree(student, ignore_errors=True)
        make_adapter(student, models / "base", seed)
        found.append((adapter_name(student), written(student, with_params(server))))
        assert found[-1][1] == written(student, with_params(None))
    assert found[0] == found[2] and found[0][0] != found[1][0] and found[0][1] != found[1][1]
    assert found[0][0].startswith("dpo-")
    # The same weights in another folder: the server would look for them where they no longer are.
    assert adapter_name(shutil.copytree(student, tmp_path / "copy" / "dpo")) != found[2][0]


def test_two_processes_load_an_adapter_at_once(models: Path, server: str, tmp_path: Path) -> None:
    shutil.copytree(models / "base", tmp_path / "base")
    student = make_adapter(tmp_path / "sft", models / "base", 9)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: written(student, with_params(server)), range(2))
    assert first == second


def test_a_base_may_be_a_copy_or_named_by_the_end_of_its_path(models: Path, server: str, tmp_path: Path) -> None:
    copy = shutil.copytree(models / "base", tmp_path / "base")
    assert written(copy, with_params(server)) == written(models / "base", with_params(server, "relative"))


def test_another_base_is_told(models: Path, server: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"generation.server \S+ serves elsewhere/base, not \S+base: start vLLM with"):
        written(models / "sft", with_params(server, "elsewhere"))
    other = make_tiny_student(tmp_path / "base", seed=3)
    with pytest.raises(UserError, match=f"serves {models}/base, not {other}: start vLLM with the folder {other}"):
        written(other, with_params(server))


@pytest.mark.parametrize(
    ("variant", "said"),
    [
        (
            "fixed",
            r"does not load the adapter \S+/sft \(.*\(404\): Not Found\): .*VLLM_ALLOW_RUNTIME_LORA_UPDATING=True",
        ),
        ("narrow", r"LoRA rank 4 is greater than max_lora_rank 2.*--max-lora-rank 4 or more"),
        ("locked", r"generation.server .*generation.key_variable \(null: no key was sent\): .*Unauthorized"),
        ("old", r"generation.server answers without token_ids: take vLLM"),
        ("broken", r"leaves query q0 without an answer \(.*maximum context length is 8"),
        (
            "nothing",
            r"generation.server \S+ cannot be asked \(.*404\): Not Found: is the path .*\?\): start vLLM there",
        ),
    ],
)
def test_the_server_is_heard(models: Path, server: str, variant: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        written(models / "sft", with_params(server, variant))


def test_no_server(models: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"generation.server http://127.0.0.1:9/usual/v1 cannot be asked \(All connection attempts failed",
    ):
        written(models / "sft", with_params("http://127.0.0.1:9"))


def test_a_key(models: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    params = with_params(server, "locked", key_variable="VLLM_SERVER_KEY")
    with pytest.raises(UserError, match=r"VLLM_SERVER_KEY is not set: .* name another in generation.key_variable"):
        written(models / "sft", params)
    monkeypatch.setenv("VLLM_SERVER_KEY", KEY)
    assert written(models / "sft", params) == written(models / "sft", with_params(server))


def test_no_student(server: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no student here"):
        written(tmp_path / "base", with_params(server))
