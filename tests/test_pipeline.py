"""The pipeline as a user runs it: real DVC, Lucene, training and MLflow, on a small Chinese collection and a tiny model."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny import make_tiny_student

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow

# What a person asks, and the words that the one document about it has.
TOPICS = {
    "天上为什么会打雷": "雷电 云层 放电 气象 现象",
    "怎样让面包变软": "酵母 发酵 面团 烘焙 水分",
    "鸟怎么知道往南飞": "候鸟 迁徙 磁场 导航 季节",
    "海水为什么是咸的": "盐分 矿物 溶解 海洋 蒸发",
    "怎么才能睡得好": "失眠 褪黑素 作息 睡眠 卧室",
    "眼睛近视怎么办": "眼镜 屈光 视网膜 验光 矫正",
    "树叶为何秋天变黄": "叶绿素 胡萝卜素 落叶 光合 色素",
    "怎么算一个圆有多大": "圆周率 半径 面积 几何 公式",
    "谁造了长城": "秦始皇 城墙 边防 古代 工程",
    "火车为什么不会出轨": "轮缘 轨道 钢轨 锥度 转向架",
    "冰为什么浮在水上": "密度 氢键 浮力 结晶 水分子",
    "怎样种好西红柿": "番茄 育苗 支架 施肥 日照",
}


def run(folder: Path, *command: str, fails: bool = False) -> str:
    """What a command prints; the environment's own `dvc` and `python` come first."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "MLFLOW_", "GIT_"))}
    env |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}", "COLUMNS": "200"}
    done = subprocess.run(command, check=False, cwd=folder, env=env, capture_output=True, text=True, timeout=900)
    output = done.stdout + done.stderr
    assert (done.returncode != 0) is fails, output
    return output


def stages_run(output: str) -> list[str]:
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage '")]


def make_collection(folder: Path) -> None:
    docs = [{"_id": f"d{i}", "title": "", "text": f"{words}。第{i}篇"} for i, words in enumerate(TOPICS.values())]
    docs += [{"_id": f"other{i}", "title": "", "text": f"无关的文字 编号{i}"} for i in range(40)]
    queries = [{"_id": f"q{i}", "text": text} for i, text in enumerate(TOPICS)]
    (folder / "qrels").mkdir(parents=True)
    for name, records in (("corpus.jsonl", docs), ("queries.jsonl", queries)):
        (folder / name).write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records))
    for name, numbers in (("train", range(8)), ("test", range(8, 12))):
        rows = "".join(f"q{i}\td{i}\t1\n" for i in numbers)
        (folder / f"qrels/{name}.tsv").write_text("query-id\tcorpus-id\tscore\n" + rows)
    answers = [
        # Sample 0 finds the document, sample 1 leads elsewhere: pairs with a margin of one.
        {"query_id": f"q{i}", "style": style, "sample": sample, "text": words if sample == 0 else f"无关的文字 编号{i}"}
        for i, words in enumerate(TOPICS.values())
        for style in ("zero_shot", "few_shot")
        for sample in (0, 1)
    ]
    (folder / "teacher").mkdir()
    for style in ("zero_shot", "few_shot"):
        lines = [json.dumps(a, ensure_ascii=False) + "\n" for a in answers if a["style"] == style]
        (folder / f"teacher/{style}.jsonl").write_text("".join(lines))


def set_params(folder: Path, changes: dict[str, Any]) -> None:
    params = yaml.safe_load((folder / "params.yaml").read_text())
    for group, values in changes.items():
        params[group] |= values
    (folder / "params.yaml").write_text(yaml.safe_dump(params, allow_unicode=True))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this project as a repository of its own, with its own collection, teacher and student."""
    folder = tmp_path_factory.mktemp("clone") / "project"
    files = run(ROOT, "git", "ls-files", "--cached", "--others", "--exclude-standard").splitlines()
    for name in files:
        if (ROOT / name).is_file() and not name.startswith(("tests/", "recordings/", "metrics/", "plots/", "dvc.lock")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    make_collection(folder / "mini")
    make_tiny_student(folder / "tiny")
    set_params(
        folder,
        {
            "collection": {
                "source": "beir", "path": "mini", "train": "train", "tests": {"test": "test"}, "validation": 0.25,
                "language": "zh", "document": "一段百科文字",
            },
            "teacher": {
                "recordings": "mini/teacher",
                "exemplars": {
                    "k": 1, "choose": "random", "ids": [], "passages": "judged", "max_words": 20, "max_tokens": None,
                },
            },
            "student": {"model": "tiny", "sha256": None},
            "generation": {"max_new_tokens": 8, "samples": 2},
            "feedback": {"samples": 2},
            "sft": {"epochs": 1, "lora": {"r": 4, "alpha": 8, "dropout": 0.0, "targets": "all-linear"}},
            "pairs": {"candidates": "both", "margin": 0.1},
            "retrieval": {"query_weights": [1, 3]},
            "evaluation": {"relevance_level": 1, "bootstrap": 100},
        },
    )  # fmt: skip
    run(folder, "git", "init", "-q")
    run(folder, "git", "config", "user.name", "test")
    run(folder, "git", "config", "user.email", "test@localhost")
    run(folder, "git", "config", "commit.gpgsign", "false")
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-qm", "start")
    return folder


@pytest.fixture(scope="module")
def reproduced(project: Path) -> str:
    output = run(project, "dvc", "repro")
    run(project, "git", "add", "-A")
    run(project, "git", "commit", "-qm", "results")
    return output


def parents(project: Path) -> dict[str, Any]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    found = client.search_runs([client.get_experiment_by_name("qedistill").experiment_id])
    return {r.info.run_name: r for r in found if "mlflow.parentRunId" not in r.data.tags}


def test_repro_runs_every_stage_once(project: Path, reproduced: str) -> None:
    assert sorted(stages_run(reproduced)) == sorted([
        "collection", "index", "exemplars", "teach@zero_shot", "teach@few_shot", "student", "sft", "sample", "feedback",
        "pairs", "dpo", "expand@base", "expand@sft", "expand@dpo", "retrieve", "evaluate",
    ])  # fmt: skip
    assert stages_run(run(project, "dvc", "repro")) == []
    assert not (project / "checkpoints/sft").exists()


def test_the_figures_make_sense(project: Path, reproduced: str) -> None:
    def figures(system: str) -> dict[str, Any]:
        return json.loads((project / f"metrics/evaluate/test/{system}.json").read_text())

    # The teacher names the words of the one relevant document.
    assert figures("teacher-few-shot")["ndcg@10"] == 1.0
    assert figures("query")["ndcg@10"] < 1.0
    assert figures("teacher-zero-shot")["vs_query"]["difference"] > 0
    pairs = json.loads((project / "metrics/pairs.json").read_text())["train"]
    assert pairs["with_pairs"] == pairs["queries"] == 6 and pairs["mean_difference"] > 0.2
    lines = [json.loads(line) for line in (project / "data/pairs/train.jsonl").read_text().splitlines()]
    assert {line["chosen_from"] for line in lines} <= {"zero_shot/0", "few_shot/0"}
    feedback = json.loads((project / "metrics/feedback.json").read_text())
    # 8 queries, one of them the exemplar, which has no few-shot answers.
    assert feedback["teacher"]["candidates"] == 8 * 2 + 7 * 2 and feedback["student"]["candidates"] == 8 * 2
    expanded = [json.loads(line) for line in (project / "data/expansions/dpo.jsonl").read_text().splitlines()]
    assert sorted({record["sample"] for record in expanded}) == [0, 1] and len(expanded) == 6 * 2
    weights = json.loads((project / "metrics/retrieve.json").read_text())["query_weight"]
    assert set(weights) == {"base", "sft", "dpo", "teacher-zero-shot", "teacher-few-shot"}
    assert len((project / "runs/test/teacher-few-shot.trec").read_text().splitlines()[0].split()) == 6
    assert "student, SFT + DPO" in run(project, "qedistill", "table")


def test_dvc_shows_metrics_and_plots(project: Path, reproduced: str) -> None:
    assert "ndcg@10" in run(project, "dvc", "metrics", "show", "metrics/evaluate")
    run(project, "dvc", "plots", "show")
    page = (project / "dvc_plots/index.html").read_text()
    for title in ("SFT loss", "DPO reward margin", "nDCG@10"):
        assert title in page


def test_an_experiment_runs_only_what_beta_changes(project: Path, reproduced: str) -> None:
    output = run(project, "dvc", "exp", "run", "--name", "half", "-S", "dpo.beta=0.5")
    assert stages_run(output) == ["dpo", "expand@dpo", "retrieve", "evaluate"]
    changed = json.loads(run(project, "dvc", "params", "diff", "--json"))
    assert changed == {"params.yaml": {"dpo.beta": {"old": 0.1, "new": 0.5, "diff": 0.4}}}
    assert "metrics/dpo.json" in run(project, "dvc", "metrics", "diff")

    found = parents(project)
    half, base = found["half"], next(r for name, r in found.items() if name != "half")
    assert (base.data.params["dpo.beta"], half.data.params["dpo.beta"]) == ("0.1", "0.5")
    # Also the figures of stages that DVC skipped.
    for key in ("evaluate/test.dpo.ndcg_10", "sft/eval_loss", "pairs/train.pairs"):
        assert key in base.data.metrics and key in half.data.metrics


def test_a_temporary_copy_logs_to_the_root_too(project: Path, reproduced: str) -> None:
    output = run(project, "dvc", "exp", "run", "--temp", "--name", "temporary", "-S", "evaluation.bootstrap=50")
    assert stages_run(output) == ["evaluate"]
    assert "temporary" in parents(project)


def test_bad_params_stop_before_work(project: Path, reproduced: str) -> None:
    output = run(project, "dvc", "exp", "run", "-S", "dpo.beta=-1", fails=True)
    assert "dpo.beta: Input should be greater than 0 (is -1)" in output
    run(project, "git", "checkout", "-q", "params.yaml")
