"""SFT and DPO in two processes on this machine's CPU (gloo), as `accelerate launch` starts them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from clone import ROOT, run, set_params
from tiny import make_tiny_student
from together import both

from qedistill.errors import UserError
from qedistill.params import Launch, load_params
from qedistill.training import model
from qedistill.training import run as training
from qedistill.training.launch import through_accelerate

CONFIGS = sorted((ROOT / "accelerate").glob("*.yaml"))


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of together.py, after two processes ran it in float32."""
    folder = tmp_path_factory.mktemp("together")
    make_tiny_student(folder / "base")
    ddp = (ROOT / "accelerate/ddp.yaml").read_text()
    (folder / "cpu.yaml").write_text(ddp.replace("mixed_precision: bf16", 'mixed_precision: "no"'))
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("together.py")), str(folder)],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def figures(together: Path, process: str = "") -> dict[str, Any]:
    return json.loads((together / f"figures{process}.json").read_text())


def losses(result: dict[str, Any], key: str) -> list[float]:
    return [row[key] for row in result["curve"] if row.get(key) is not None]


def test_two_processes_learn_what_one_does(together: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import load_file

    for module in (model, training):
        monkeypatch.setattr(module, "pick_dtype", lambda: torch.float32)
    monkeypatch.setattr(model, "pick_device", lambda: "cpu")
    monkeypatch.setattr(training, "pick_device", lambda: "cpu")
    one, two = both(together, "one"), figures(together)
    for stage in ("sft", "dpo"):
        assert one[stage]["steps"] == two[stage]["steps"] and one[stage]["tokens"] == two[stage]["tokens"]
        assert losses(two[stage], "loss") == pytest.approx(losses(one[stage], "loss"), rel=1e-3)
        assert losses(two[stage], "num_tokens") == losses(one[stage], "num_tokens")
        # A validation loss is the mean over batches, and a process's are smaller.
        assert losses(two[stage], "eval_loss") == pytest.approx(losses(one[stage], "eval_loss"), rel=1e-2)
        ours, theirs = (load_file(together / out / stage / "adapter_model.safetensors") for out in ("one", "two"))
        assert ours.keys() == theirs.keys()
        assert all(torch.allclose(ours[name], theirs[name], atol=1e-3) for name in ours)
    assert losses(two["dpo"], "rewards/margins") == pytest.approx(losses(one["dpo"], "rewards/margins"), rel=1e-3)


def test_both_processes_know_the_same_but_one_writes(together: Path) -> None:
    main, helper = figures(together), figures(together, "1")
    assert losses(main["sft"], "loss") == losses(helper["sft"], "loss")
    assert main["checkpoints"] == ["checkpoint-6"]
    assert sorted(path.name for path in (together / "two").iterdir()) == ["dpo", "sft"]  # no checkpoints are left


def test_a_kill_of_both_is_made_good(together: Path) -> None:
    found = figures(together)
    assert losses(found["resumed"], "loss") == losses(found["sft"], "loss")
    whole, resumed = (together / out / "sft/adapter_model.safetensors" for out in ("two", "resumed"))
    assert whole.read_bytes() == resumed.read_bytes()


@pytest.mark.slow
def test_the_stage_tracks_one_run_and_writes_one_adapter(
    project: Path, reproduced: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    folder = tmp_path / "clone"
    run(project, "git", "clone", "-q", str(project), str(folder))
    run(folder, "dvc", "cache", "dir", "--local", str(project / ".dvc/cache"))
    run(folder, "dvc", "checkout")
    before = (folder / "models/sft/adapter_model.safetensors").read_bytes()
    precision = "bf16" if model.pick_dtype() == torch.bfloat16 else "no"
    ddp = (
        (folder / "accelerate/ddp.yaml").read_text().replace("mixed_precision: bf16", f'mixed_precision: "{precision}"')
    )
    (folder / "cpu.yaml").write_text(ddp)
    set_params(folder, {"training": {"launcher": "accelerate", "config": "cpu.yaml", "processes": 2}})
    assert "Running stage 'sft'" in run(folder, "dvc", "repro", "--single-item", "sft")

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    found = client.search_runs([client.get_experiment_by_name("qedistill").experiment_id])
    (nested,) = [r for r in found if "mlflow.parentRunId" in r.data.tags]
    assert (nested.info.run_name, nested.info.status, len(found)) == ("sft", "FINISHED", 2)
    history = client.get_metric_history(nested.info.run_id, "sft/loss")
    old, new = (
        [float(line.split(",")[1]) for line in (where / "plots/sft.csv").read_text().splitlines()[1:]]
        for where in (project, folder)
    )
    assert [point.value for point in history] == new
    assert new[0] == pytest.approx(old[0], rel=1e-2)  # the next, a short batch, is filled up
    adapter = folder / "models/sft/adapter_model.safetensors"
    assert adapter.read_bytes() != before and len(adapter.read_bytes()) == len(before)
    assert not list((folder / "checkpoints").iterdir())


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_takes_the_configs(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By accelerate's own parser: which launcher it would choose, with how many processes."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    started: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda path, command: started.append(command))
    monkeypatch.setattr(sys, "argv", ["stages/sft.py"])
    through_accelerate(Launch(launcher="accelerate", config=str(config), processes=4))
    (command,) = started
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(command[3:]))
    kinds = {"ddp": args.multi_gpu, "fsdp": args.use_fsdp, "deepspeed": args.use_deepspeed}
    assert [name for name, chosen in kinds.items() if chosen] == [config.stem]
    assert (args.num_processes, args.mixed_precision) == (4, "bf16")
    assert (args.training_script, args.training_script_args) == ("stages/sft.py", [])


def test_without_a_launcher_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "execv", None)
    through_accelerate(Launch(launcher="none", config="no/such/file", processes=1))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    through_accelerate(Launch(launcher="accelerate", config="no/such/file", processes=1))


def test_configs_that_cannot_work_are_named(tmp_path: Path) -> None:
    def start(text: str | None) -> None:
        path = tmp_path / "config.yaml"
        if text is not None:
            path.write_text(text)
        through_accelerate(Launch(launcher="accelerate", config=str(path), processes=2))

    for text, complaint in (
        (None, "no such file"),
        ("distributed_type: 'NO'\n", "distributed_type must be one of MULTI_GPU, FSDP, DEEPSPEED"),
        ("distributed_type: MULTI_GPU\nspeed: 9\n", "unknown keys"),
        ("distributed_type: [", "no config of accelerate"),
        ("a word\n", "no config of accelerate"),
    ):
        with pytest.raises(UserError, match=complaint):
            start(text)


def test_a_batch_must_be_shared_equally(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "profiles/pyapi.yaml").read_text().replace("launcher: none", "launcher: accelerate")
    (tmp_path / "params.yaml").write_text(text.replace("processes: 1", "processes: 3"))
    with pytest.raises(UserError, match="sft.batch_size must be a multiple of training.processes"):
        load_params(tmp_path / "params.yaml")
    monkeypatch.setenv("WORLD_SIZE", "3")  # as of a launch by hand
    with pytest.raises(UserError, match="batch_size is 16: no multiple of 3 processes"):
        training.arguments(load_params(ROOT / "profiles/pyapi.yaml").sft, 1, tmp_path / "sft", False, False)
