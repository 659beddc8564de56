"""A clone of this project with a small Chinese collection of its own."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytrec_eval
import yaml

ROOT = Path(__file__).parents[1]

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


def run_stages(folder: Path, *stages: str, **variables: str) -> str:
    """What stages ("retrieve --system=query") print, run in this order by one process, which imports and starts Java once.

    `dvc repro` starts a process for each, as test_pipeline does; a whole pipeline takes it minutes. `variables` are of
    the environment.
    """
    script = (
        "import runpy, sys\n"
        "for stage in sys.argv[1:]:\n"
        "    name, *options = stage.split()\n"
        "    sys.argv = [f'stages/{name}.py', *options]\n"
        "    try:\n"
        "        runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "    except SystemExit as end:\n"
        "        if end.code:\n"
        "            raise\n"
    )
    settings = [f"{name}={value}" for name, value in variables.items()]
    return run(folder, "env", "PYTHONPATH=src", *settings, "python", "-c", script, *stages)


def write_tsv(path: Path, rows: Iterable[tuple[Any, ...]], header: tuple[str, ...] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in [*([header] if header else []), *rows]))


def figures_again(project: Path, part: str, level: int = 1) -> dict[str, dict[str, float]]:
    """System → some figures of its run file, read and computed by pytrec_eval alone; `level` makes relevant."""
    names = {"ndcg@10": "ndcg_cut_10", "ap": "map", "mrr": "recip_rank", "recall@100": "recall_100"}
    with (project / f"data/collection/qrels/{part}.txt").open() as file:
        judged = pytrec_eval.parse_qrel(file)
    evaluator = pytrec_eval.RelevanceEvaluator(judged, set(names.values()), relevance_level=level)
    figures = {}
    for path in (project / f"runs/{part}").glob("*.trec"):
        with path.open() as file:
            found = evaluator.evaluate(pytrec_eval.parse_run(file)).values()
        figures[path.stem] = {
            ours: sum(scores[theirs] for scores in found) / len(judged) for ours, theirs in names.items()
        }
    return figures


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


def copy_project(folder: Path) -> None:
    """The project as it is, without what it has produced and recorded; its collection is in `mini`."""
    for name in run(ROOT, "git", "ls-files", "--cached", "--others", "--exclude-standard").splitlines():
        if (ROOT / name).is_file() and not name.startswith(("tests/", "recordings/", "metrics/", "plots/", "dvc.lock")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    make_collection(folder / "mini")


def commit_all(folder: Path) -> None:
    """Make the folder a repository with one commit."""
    for command in (
        ["init", "-q"], ["config", "user.name", "test"], ["config", "user.email", "test@localhost"],
        ["config", "commit.gpgsign", "false"], ["add", "-A"], ["commit", "-qm", "start"],
    ):  # fmt: skip
        run(folder, "git", *command)
