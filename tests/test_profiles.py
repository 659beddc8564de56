"""The profiles miracl-zh and own, every stage, on small collections: nothing but names and sizes is changed."""

import csv
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import fault_server
import pytest
import yaml
from clone import copy_project, figures_again, run, run_stages, write_tsv
from safetensors.torch import load_file
from tiny import make_tiny_qwen3

from qedistill.evaluation import SYSTEMS, TEACHERS
from qedistill.prompts import STYLES
from qedistill.retrieval import indexes
from qedistill.retrieval.jvm import java_class
from qedistill.text import flatten, read_json, read_jsonl, read_queries, read_run, write_jsonl
from qedistill.training.model import load_student
from qedistill.words import HAN

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
STAGES = (
    "collection", "index", "embed", "exemplars", "teach zero_shot", "teach few_shot", "student", "sft", "sample",
    "feedback", "pairs", "dpo", "expand base", "expand sft", "expand dpo", "retrieve", "evaluate",
)  # fmt: skip
TOLD = ("cost base", "cost sft", "cost dpo", "summary", "report")

# Asked; title and text of the one relevant passage, which has no two characters of the question in a row.
MIRACL_TRAIN = [
    ("天上为什么会打雷", "闪电", "云层之间积累的电荷突然放电，空气剧烈膨胀，发出隆隆巨响。"),
    ("怎样让面包变软", "发酵", "酵母分解面团里的糖分，产生二氧化碳，烘焙之后组织蓬松湿润。"),
    ("鸟怎么知道往南飞", "候鸟迁徙", "动物借助地球磁场、星辰位置与遗传本能导航，随季节往返两地。"),
    ("海水为什么是咸的", "盐度", "河流溶解岩石中的矿物质，携带钠离子和氯离子汇入海洋，蒸发后浓缩。"),
    ("怎么才能睡得好", "失眠", "规律作息、避免咖啡因、保持卧室黑暗，有助于褪黑素的正常分泌。"),
    ("眼睛近视怎么办", "屈光不正", "验光之后佩戴凹透镜，使光线重新聚焦在视网膜上，矫正视力。"),
    ("树叶为何秋天变黄", "叶绿素", "气温降低以后光合色素分解，胡萝卜素的颜色显露，落叶随之而来。"),
    ("怎么算一个圆有多大", "圆周率", "面积等于半径的平方乘以常数，古代几何学者用割补法逼近。"),
    ("冰为什么浮在水上", "氢键", "分子排列成六边形晶格，体积膨胀，密度小于液态，因此受浮力上升。"),
    ("怎样种好西红柿", "番茄", "育苗移栽以后搭设支架，充足日照，适量施肥，及时整枝打杈。"),
]  # fmt: skip
MIRACL_DEV = [
    ("火车为什么不会出轨", "轮缘", "轨道内侧的凸起与锥形踏面引导转向架自动对中，曲线处设有超高。"),
    ("月亮为什么有圆有缺", "月相", "太阳照亮卫星的半个球面，公转过程中观察者看到的明暗比例周期变化。"),
    ("肚子饿了为什么会叫", "肠鸣音", "胃壁平滑肌周期收缩，推动气体和液体流过消化道，发出声响。"),
    # Found by its title alone.
    ("谁下令造了万里长城", "万里长城", "秦始皇统一六国之后，征发劳役连接旧有城墙，用于北方边防。"),
    # Found where wide forms are the same as narrow ones.
    ("ＷＩＦＩ 老是断，怎么办？", "无线路由器", "更换信道，避开拥挤频段，或者加装 WiFi 中继设备，可以改善覆盖。"),
]  # fmt: skip
TWIN = "wifi老是断怎么办"  # a training query that a test query asks in other forms
FILLERS = [
    "足球比赛分上下两个半场", "书法讲究笔墨纸砚", "瓷器在窑里高温烧成", "象棋共有三十二枚棋子", "琵琶是弹拨乐器", "麻雀常住屋檐之下",
]  # fmt: skip
PROMPTS = [
    "请写一段中文维基百科的段落，回答下面的查询。",
    "使用这类文本会用的确切术语。最多8个词；只输出该段落。",
    "查询：",
    "段落：",
]
MIRACL_SIZES = {
    "teacher.samples": 2, "teacher.exemplars.max_words": 12, "student.max_words": 8, "generation.max_new_tokens": 24,
    "sft.epochs": 8, "sft.gradient_accumulation": 1, "dpo.epochs": 6, "dpo.gradient_accumulation": 1,
    "evaluation.bootstrap": 100,
}  # fmt: skip

OWN = [
    ("put numbers in ascending order", "Quicksort", "Partitioning around a pivot sorts an array in place, recursively."),
    ("find a name in a phone book fast", "Binary search", "Halving an ordered interval locates a key in logarithmic time."),
    ("shrink a file without losing anything", "Huffman coding", "Frequent symbols get short prefix codes: lossless compression."),
    ("turn source text into machine steps", "Compiler", "Lexer, parser and code generator translate programs."),
    ("shortest way between two towns", "Dijkstra algorithm", "A priority queue of vertices yields least weighted paths in a graph."),
    ("look things up by key at once", "Hash table", "Buckets indexed by a digest give constant expected lookup."),
    ("forget memory nobody uses any more", "Garbage collection", "A collector marks reachable objects and sweeps the heap."),
    ("undo everything if one step fails", "Transaction", "Atomic commit or rollback keeps a database consistent."),
    ("guess the next word of a sentence", "Language model", "Probabilities of tokens given context, estimated from a corpus."),
    ("send secrets over an open line", "Public key cryptography", "Encryption with an asymmetric pair of keys, one published."),
    ("keep copies of hot pages near", "Cache replacement", "Evicting the least recently used block raises the hit ratio."),
    ("tell spam from proper mail", "Naive Bayes", "A classifier multiplies conditional likelihoods of features."),
    ("draw hidden faces of a solid last", "Z-buffer", "Depth comparison per pixel removes hidden surfaces while rendering."),
    ("rule about the exclusion of a second writer", "Mutual exclusion", ""),  # found by the title, which is all there is
]  # fmt: skip
OTHERS = ["a passage about gardening", "cooking rice takes water", "sailing needs wind", "the train leaves at noon"]
OWN_MARKED: dict[str, Any] = {
    "collection.path": "my-collection", "collection.train": "train", "collection.tests.test": "test",
    "collection.language": "en", "collection.document": "an abstract of a computing paper", "teacher.model": "teacher",
    "student.model": "student", "student.sha256": None, "evaluation.relevance_level": 2,
}  # fmt: skip
OWN_SIZES = {
    "teacher.tolerance": 0.9, "teacher.max_new_tokens": 32, "generation.max_new_tokens": 24, "generation.samples": 2,
    "sft.epochs": 1, "feedback.samples": 6, "evaluation.bootstrap": 100, "cost.queries": 1, "cost.batch_sizes": [2],
    "report.searches": 100, "dpo.evaluations": 1,
}  # fmt: skip


def miracl_prompt(query: str) -> str:
    return f"请写一段中文维基百科的段落，回答下面的查询。\n\n查询：{query}\n段落："


def own_prompt(query: str) -> str:
    return f"Write an abstract of a computing paper that answers the query.\n\nQuery: {query}\nPassage:"


def doc_id(number: int) -> str:
    return f"10.1145/{number}.v2#p"


def profile(name: str) -> dict[str, Any]:
    return flatten(yaml.safe_load((ROOT / f"profiles/{name}.yaml").read_text()))


def change(project: Path, changes: dict[str, Any]) -> None:
    """Set params by their dotted names, which must be there."""
    params = yaml.safe_load((project / "params.yaml").read_text())
    for name, value in changes.items():
        *groups, key = name.split(".")
        group = params
        for part in groups:
            group = group[part]
        assert key in group
        group[key] = value
    (project / "params.yaml").write_text(yaml.safe_dump(params, allow_unicode=True))


def changed(project: Path, name: str) -> set[str]:
    """The params of a project that differ from a profile's."""
    now, then = flatten(yaml.safe_load((project / "params.yaml").read_text())), profile(name)
    assert now.keys() == then.keys()
    return {key for key in now if now[key] != then[key]}


def figure(project: Path, part: str, system: str) -> float:
    return float(read_json(project / f"metrics/evaluate/{part}/{system}.json")["ndcg@10"])


def check_figures(project: Path, parts: list[str], level: int) -> None:
    """Every figure of every system is pytrec_eval's."""
    for part in parts:
        again = figures_again(project, part, level)
        assert again.keys() == set(SYSTEMS)
        for system, figures in again.items():
            text = (project / f"metrics/evaluate/{part}/{system}.json").read_text()
            assert "NaN" not in text  # no JSON
            assert figures == {name: pytest.approx(json.loads(text)[name], abs=1e-6) for name in figures}


def likelihoods(project: Path, model: str) -> tuple[float, float]:
    """Mean log-likelihood of the chosen and the rejected of the training pairs by a student as it is used, added up here."""
    import torch

    student, tokenizer = load_student(project / "models" / model, project / "models/base")
    means = []
    for side in ("chosen", "rejected"):
        sums = []
        for pair in read_jsonl(project / "data/pairs/train.jsonl"):
            prompt = tokenizer.apply_chat_template(
                pair["prompt"], add_generation_prompt=True, enable_thinking=False, tokenize=False
            )
            asked, answer = tokenizer([prompt, f"{pair[side][0]['content']}<|im_end|>"])["input_ids"]
            with torch.inference_mode():
                scores = student.float()(torch.tensor([asked + answer])).logits.log_softmax(-1)[0, len(asked) - 1 : -1]
            sums.append(float(scores.gather(1, torch.tensor(answer)[:, None]).sum()))
        means.append(sum(sums) / len(sums))
    return means[0], means[1]


@pytest.fixture(scope="module")
def miracl(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Path]:
    """A project where the profile has run over the files that ir_datasets and pyserini would have fetched; what it
    printed; and the log of the teacher's server."""
    folder = tmp_path_factory.mktemp("miracl")
    project = folder / "project"
    copy_project(project)
    (project / "recordings/none").mkdir(parents=True)
    topics = [*MIRACL_TRAIN, *MIRACL_DEV]
    passages = [(f"{n}#0", title, text) for n, (_, title, text) in enumerate(topics)]
    # The same characters in another order: an analyser of single characters would take them for the passage.
    passages += [(f"{n}#1", "", (title + text)[::-1]) for n, (_, title, text) in enumerate(topics)]
    passages += [(f"{100 + n}#0", f"其他{n}", text) for n, text in enumerate(FILLERS)]
    entry = indexes._registry()["miracl-v1.0-zh"]
    index = folder / "pyserini/indexes" / f"{str(entry['filename']).removesuffix('.tar.gz')}.{entry['md5']}"
    write_jsonl(
        folder / "corpus/docs-0.jsonl", [dict(zip(("docid", "title", "text"), p, strict=True)) for p in passages]
    )
    java_class("io.anserini.index.IndexCollection").main([
        "-collection", "MrTyDiCollection", "-input", str(folder / "corpus"), "-index", str(index), "-language", "zh",
        "-threads", "1", "-storePositions", "-storeDocvectors", "-storeRaw",
    ])  # fmt: skip
    numbers = {"train": range(len(MIRACL_TRAIN)), "dev": range(len(MIRACL_TRAIN), len(topics))}
    for split, own in numbers.items():
        queries = [(f"{n}#0", topics[n][0]) for n in own] + ([("99#0", TWIN)] if split == "train" else [])
        judged = [(f"{n}#0", "Q0", f"{n}#{passage}", 1 - passage) for n in own for passage in (0, 1)]
        judged += [("99#0", "Q0", "14#0", 1)] if split == "train" else []
        write_tsv(folder / "ir_datasets/miracl/v1.0/zh" / split / "topics.tsv", queries)
        write_tsv(folder / "ir_datasets/miracl/v1.0/zh" / split / "qrels.tsv", judged)
    make_tiny_qwen3(
        project / "tiny", [(miracl_prompt(text[:4]), text) for text in FILLERS], [*PROMPTS, *map("".join, topics)]
    )
    answers = {
        query: [
            f"<think>\n想一想：{query}\n</think>\n\n段落：{title}。{text}",
            f"{FILLERS[n % len(FILLERS)]}，还有别的。",
        ]
        for n, (query, title, text) in enumerate(topics)
    }
    server, port = fault_server.start(folder / "asked.jsonl", faults={}, latency=0.001, answers=answers)
    run(project, "qedistill", "use", "miracl-zh")
    changes = MIRACL_SIZES | {"student.model": "tiny", "teacher.api.base_url": f"http://127.0.0.1:{port}/v1"}
    change(project, changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYSERINI_CACHE", str(folder / "pyserini"))
        patch.setenv("IR_DATASETS_HOME", str(folder / "ir_datasets"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.setenv(str(profile("miracl-zh")["teacher.api.key_variable"]), fault_server.KEY)
        output = run_stages(project, *STAGES)
    server.communicate()  # closes what it reads from
    return project, output, folder / "asked.jsonl"


def test_miracl_figures(miracl: tuple[Path, str, Path]) -> None:
    project, output, _ = miracl
    check_figures(project, ["validation", "miracl-zh"], level=1)
    # Of five test queries two find their passage: by its title, and by the narrow forms of wide letters.
    assert [figure(project, "miracl-zh", system) for system in ("query", *TEACHERS.values())] == [0.4, 1.0, 1.0]
    top = {query: next(iter(found), None) for query, found in read_run(project / "runs/miracl-zh/query.trec").items()}
    assert {query: doc for query, doc in top.items() if query == doc} == {"13#0": "13#0", "14#0": "14#0"}
    assert json.loads((project / "metrics/evaluate/miracl-zh/query.json").read_text())["published"] == 0.1801
    assert "WARNING: not as published" in output and "nDCG@10 is 0.4000, published 0.1801 (+0.2199)" in output
    assert (project / "data/collection/corpus.jsonl").read_text() == ""


def test_miracl_leaves_out_a_test_query_in_other_forms(miracl: tuple[Path, str, Path]) -> None:
    project, _, _ = miracl
    drawn = [set(read_queries(project / f"data/collection/queries/{name}.tsv")) for name in ("train", "validation")]
    assert list(map(len, drawn)) == [9, 1] and set.union(*drawn) == {f"{n}#0" for n in range(10)}
    assert "14#0" in read_queries(project / "data/collection/queries/miracl-zh.tsv")


def test_miracl_asks_the_teacher_in_chinese(miracl: tuple[Path, str, Path]) -> None:
    project, _, log = miracl
    asked = [record["content"] for record in read_jsonl(log)]
    queries = Counter(content.count("查询：") for content in asked)
    assert queries == {1: 5 + 10 * 2, 5: 5 + (10 - 4) * 2}  # four exemplars, which are not asked themselves
    assert all("一段中文维基百科的段落" in content and "最多60个词" in content for content in asked)
    assert any("查询：ＷＩＦＩ 老是断，怎么办？\n段落：" in content for content in asked)
    for exemplar in read_json(project / "data/exemplars.json")["*"]:
        _, title, text = MIRACL_TRAIN[int(exemplar["doc_id"].removesuffix("#0"))]
        # Cut by characters: there is no space but that after the title.
        assert f"{title}: {text}".startswith(exemplar["passage"]) and 23 <= len(HAN.findall(exemplar["passage"])) <= 24
    assert read_json(project / "metrics/teach@zero_shot.json")["words_per_answer"] > 10


def test_miracl_cuts_answers_by_characters(miracl: tuple[Path, str, Path]) -> None:
    project, _, _ = miracl
    answers = {
        (record["query_id"], record["style"], record["sample"]): record["text"]
        for style in STYLES
        for record in read_jsonl(project / f"data/teacher/{style}.jsonl")
    }
    candidates = list(read_jsonl(project / "data/feedback.jsonl"))
    learnt = read_queries(project / "data/collection/queries/train.tsv")
    assert len(candidates) == sum(query_id in learnt for query_id, _, _ in answers) == 9 * 2 + 5 * 2
    for candidate in candidates:
        whole = answers[candidate["query_id"], candidate["style"], candidate["sample"]]
        kept = len(HAN.findall(candidate["text"]))
        assert whole.startswith(candidate["text"]) and kept == min(2 * 8, len(HAN.findall(whole)))
    pairs = list(read_jsonl(project / "data/pairs/train.jsonl"))
    assert len(pairs) == 9 and all(pair["chosen_score"] > pair["rejected_score"] + 0.1 for pair in pairs)
    for pair in pairs:
        assert len(HAN.findall(pair["chosen"][0]["content"])) == 16 and "最多8个词" in pair["prompt"][0]["content"]


def test_miracl_trains_a_qwen3(miracl: tuple[Path, str, Path]) -> None:
    project, _, _ = miracl
    with (project / "plots/sft_validation.csv").open() as file:
        validated = [float(row["eval_loss"]) for row in csv.DictReader(file)]
    assert len(validated) == 4 and validated[-1] < validated[0] - 0.1
    config = read_json(project / "models/base/config.json")
    assert config["model_type"] == "qwen3" and config["tie_word_embeddings"] and config["head_dim"] == 32
    tensors = [load_file(project / f"models/{name}/adapter_model.safetensors") for name in ("sft", "dpo")]
    assert len(tensors[0]) == 2 * 7 * 2 and tensors[0].keys() == tensors[1].keys()
    assert all((tensors[0][name] != tensors[1][name]).any() for name in tensors[0])
    assert read_json(project / "metrics/dpo.json")["reward_margin"] > 0
    base, sft, dpo = (likelihoods(project, model) for model in ("base", "sft", "dpo"))
    assert sft[0] > base[0] + 1  # the teacher's answers
    assert dpo[0] - dpo[1] > sft[0] - sft[1]


def test_miracl_thinks_nowhere(miracl: tuple[Path, str, Path]) -> None:
    project, _, _ = miracl
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = project / "models/base"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    chat = [{"role": "user", "content": miracl_prompt(MIRACL_DEV[0][0])}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    free = model.generate(input_ids=ids, max_new_tokens=24, do_sample=False)[0, ids.shape[1] :]
    assert tokenizer.decode(free).startswith("<think>\nHm.\n</think>")  # what it writes where nobody tells it not to
    files = [*(project / "data/expansions").iterdir(), *(project / "data/teacher").iterdir()]
    texts = [record["text"] for path in files for record in read_jsonl(path)]
    assert len(files) == 5 and len(texts) == 3 * 6 + 42
    assert all(text and "think" not in text and "Hm" not in text for text in texts)
    assert read_json(project / "metrics/teach@few_shot.json")["cleaned"]["thinking"] > 0


def test_miracl_is_the_profile_but_for_sizes(miracl: tuple[Path, str, Path]) -> None:
    assert changed(miracl[0], "miracl-zh") == {*MIRACL_SIZES, "student.model", "teacher.api.base_url"}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A project where the profile has run over a BEIR folder, with a teacher in a folder; and what it printed."""
    project = tmp_path_factory.mktemp("own") / "project"
    copy_project(project)
    folder = project / "my-collection"
    docs = [
        {"_id": doc_id(n), "title": title, "text": text, "metadata": {"url": "https://example.org/a b"}}
        for n, (_, title, text) in enumerate(OWN)
    ]
    docs += [{"_id": f"other-{n}", "text": text} for n, text in enumerate(OTHERS)]  # no title
    queries = [{"_id": f"q/{n}.a", "text": query} for n, (query, _, _) in enumerate(OWN)]
    queries += [{"_id": "q/nil", "text": "what nobody has written about"}]
    write_jsonl(folder / "corpus.jsonl", docs)
    write_jsonl(folder / "queries.jsonl", queries)
    for name, numbers in (("train", range(10)), ("test", range(10, len(OWN)))):
        rows = [row for n in numbers for row in ((f"q/{n}.a", doc_id(n), 2), (f"q/{n}.a", f"other-{n % 4}", 1))]
        rows += [("q/nil", "other-0", 0), ("q/nil", "gone", 0)] if name == "test" else []
        write_tsv(folder / f"qrels/{name}.tsv", rows, ("query-id", "corpus-id", "score"))
    passages = [f"{title}: {text}" for _, title, text in OWN]
    make_tiny_qwen3(
        project / "teacher", [(own_prompt(q), p) for (q, _, _), p in zip(OWN, passages, strict=True)], OTHERS
    )
    # A student that knows what passages there are, but not for which query.
    mixed = [(OWN[n][0], passages[(n + step) % len(OWN)]) for n in range(len(OWN)) for step in range(3)]
    make_tiny_qwen3(project / "student", mixed, OTHERS, seed=1)
    run(project, "qedistill", "use", "own")
    change(project, OWN_MARKED | OWN_SIZES)
    return project, run_stages(project, *STAGES, *TOLD)


def test_own_figures(own: tuple[Path, str]) -> None:
    project, _ = own
    check_figures(project, ["validation", "test"], level=2)
    summary = read_json(project / "metrics/summary.json")
    assert summary["nDCG@10 of DPO on test"] == pytest.approx(figure(project, "test", "dpo"), abs=1e-6)


def test_own_bears_what_beir_folders_hold(own: tuple[Path, str]) -> None:
    project, output = own
    split = read_json(project / "metrics/collection.json")
    assert split["documents"] == len(OWN) + len(OTHERS) and split["test"] == {
        "queries": 4,
        "judgments": 8,
        "dangling": 0,
    }
    assert set(read_queries(project / "data/collection/queries/test.tsv")) == {f"q/{n}.a" for n in range(10, 14)}
    assert next(iter(read_run(project / "runs/test/query.trec")["q/13.a"])) == doc_id(13)
    shown = {exemplar["doc_id"] for exemplar in read_json(project / "data/exemplars.json")["*"]}
    assert shown <= {doc_id(n) for n in range(10)} and len(shown) == 4
    page = (project / "report/report.html").read_text()
    assert doc_id(11) in page and "q/11.a" in page
    assert "student, SFT + DPO" in output


def test_own_learns_from_the_local_teacher(own: tuple[Path, str]) -> None:
    project, _ = own
    taught = read_json(project / "metrics/teach@zero_shot.json")
    assert taught["calls"]["answer"] == taught["answers"] > 0 and taught["completion_tokens"] > 0
    assert read_json(project / "metrics/pairs.json")["train"]["pairs"] > 0
    lines = list(read_jsonl(project / "data/pairs/train.jsonl"))
    assert {line["chosen_from"].split("/")[0] for line in lines} == {"student"}
    # dpo.evaluations wants pairs of the validation queries too.
    held = set(read_queries(project / "data/collection/queries/validation.tsv"))
    assert held <= {record["query_id"] for record in read_jsonl(project / "data/samples.jsonl")}
    assert "eval_loss" in read_json(project / "metrics/dpo.json")
    sft, dpo = (likelihoods(project, model) for model in ("sft", "dpo"))
    assert dpo[0] - dpo[1] > sft[0] - sft[1]
    assert read_json(project / "metrics/cost@dpo.json")["completion_tokens_per_query"] > 0


def test_every_mark_of_the_template_names_a_param(own: tuple[Path, str]) -> None:
    """Those that the test above sets; the hash goes with the model it belongs to."""
    marked, path = set(), []
    for line in (ROOT / "profiles/own.yaml").read_text().splitlines():
        if key := re.match(r"( *)(\w+):", line):
            path = [*path[: len(key[1]) // 2], key[2]]
            marked |= {".".join(path)} if "# <-" in line else set()
    assert marked <= profile("own").keys() and len(marked) == 8
    assert OWN_MARKED.keys() == marked | {"student.sha256"}
    assert changed(own[0], "own") <= {*OWN_MARKED, *OWN_SIZES}
