"""The profile trec-dl from `collection` to the report, over MS MARCO in miniature, fetched as the real one is."""

import functools
import http.server
import json
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from shutil import copy
from typing import Any

import fault_server
import pytest
import pytrec_eval
import yaml
from clone import copy_project, run, run_stages, set_params
from fault_server import KEY
from msmarco import (
    ABSENT,
    ABSENT_V2,
    ALL_ZERO,
    DUPLICATE,
    TRACKS,
    UNJUDGED,
    answers,
    checksum,
    collections,
    queries_and_qrels,
    write_downloads,
    write_indexes,
)  # fmt: skip
from test_report import blob
from tiny import make_tiny_student

from qedistill.evaluation import SYSTEMS
from qedistill.retrieval import indexes
from qedistill.text import read_jsonl, read_qrels, read_queries, read_run
from qedistill.words import cut_words, plain

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
NAMES = ("msmarco-v1-passage", "msmarco-v2-passage")
STAGES = (
    "collection", "index", "embed", "exemplars", "teach zero_shot", "teach few_shot", "student", "sft", "sample", "feedback",
    "pairs", "dpo", "expand base", "expand sft", "expand dpo", "retrieve", "evaluate", "cost base", "cost sft", "cost dpo",
    "summary", "report",
)  # fmt: skip
SIZES: dict[str, dict[str, Any]] = {
    "collection": {"train_queries": 20},
    "index": {"threads": 1},
    "student": {"model": "tiny"},
    "generation": {"max_new_tokens": 8},
    "sft": {"epochs": 1, "evaluations": 1},
    "evaluation": {"bootstrap": 100},
    "cost": {"queries": 2, "batch_sizes": [2]},
    "report": {"searches": 100},
}


@dataclass
class Ran:
    """A copy of the project in which the profile ran."""

    project: Path
    planned: str  # what `qedistill plan` said before
    output: str  # of the stages
    fetched: list[str]  # files, as the server saw them
    asked: list[str]  # of the teacher

    def metrics(self, name: str) -> Any:
        return json.loads((self.project / f"metrics/{name}.json").read_text())

    def queries(self, split: str) -> dict[str, str]:
        return read_queries(self.project / f"data/collection/queries/{split}.tsv")

    def runs(self, split: str) -> dict[str, dict[str, dict[str, float]]]:
        return {path.stem: read_run(path) for path in (self.project / "runs" / split).glob("*.trec")}


class Server(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and notes what is asked for."""

    def __init__(self, *args: Any, seen: list[str], **options: Any) -> None:
        self.seen = seen
        super().__init__(*args, **options)

    def log_message(self, format: str, *args: Any) -> None:
        self.seen.append(self.path.lstrip("/"))


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    root = tmp_path_factory.mktemp("msmarco")
    project, served, log, fetched = root / "project", root / "served", root / "teacher.jsonl", list[str]()
    copy_project(project)
    (project / "recordings/none").mkdir(parents=True)
    files = write_downloads(served)
    archives = {name: str(indexes._registry()[name]["filename"]) for name in NAMES}
    write_indexes(served, archives, root / "work")
    handler = functools.partial(Server, directory=str(served), seen=fetched)
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    teacher, port = fault_server.start(log, faults={}, latency=0, answers=answers())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IR_DATASETS_HOME", str(root / "ir_datasets"))
        patch.setenv("PYSERINI_CACHE", str(root / "pyserini"))
        patch.setenv("NO_PROXY", "127.0.0.1")
        run(project, "qedistill", "use", "trec-dl")
        planned = run(project, "qedistill", "plan")  # of the real thing, without a key
        patch.setenv("DEEPSEEK_API_KEY", KEY)
        mirror(project, served, files, archives, f"http://127.0.0.1:{web.server_port}")
        make_tiny_student(project / "tiny", positions=1024)
        params = yaml.safe_load((project / "params.yaml").read_text())
        api = params["teacher"]["api"] | {"base_url": f"http://127.0.0.1:{port}/v1"}
        set_params(project, SIZES | {"teacher": {"api": api}})
        output = run_stages(project, *STAGES)
        output += run(project, "env", "PYTHONPATH=src", "qedistill", "plan")
    web.shutdown()
    teacher.kill()
    teacher.communicate()
    asked = [json.loads(line)["content"] for line in log.read_text().splitlines()]
    return Ran(project, planned, output, fetched, asked)


def mirror(project: Path, served: Path, files: dict[str, Any], archives: dict[str, str], address: str) -> None:
    """Let the libraries in this copy of the project fetch from the served folder."""

    def entry(name: str) -> dict[str, Any]:
        return {"url": f"{address}/{name}", "expected_md5": checksum(served / name), "irds_mirror": False}

    entries = {
        "ir_datasets": {key: {name: entry(file) for name, file in own.items()} for key, own in files.items()},
        "pyserini": {
            name: {
                "urls": [f"{address}/{file}"], "md5": checksum(served / file),
                "size compressed (bytes)": (served / file).stat().st_size,
            }
            for name, file in archives.items()
        },
    }  # fmt: skip
    copy(HERE / "mirror.py", project / "src/sitecustomize.py")
    (project / "src/mirror.json").write_text(json.dumps(entries))


def test_the_plan_before_and_after(ran: Ran) -> None:
    for told in ("8,841,823 documents", "138,364,198 documents", "38.81 GB", "Missing: key: DEEPSEEK_API_KEY"):
        assert told in ran.planned
    there = [line for line in ran.output.splitlines() if "index msmarco-v" in line]
    assert len(there) == 2 and all("there" in line for line in there)
    assert "to come" in ran.planned and "DEEPSEEK_API_KEY is not set" not in ran.output


def test_only_what_is_needed_was_fetched(ran: Ran) -> None:
    """Queries, judgments and two indexes, each once; neither collection."""
    assert Counter(ran.fetched) == Counter(path.name for path in (ran.project.parent / "served").iterdir())
    assert (ran.project / "data/collection/corpus.jsonl").read_text() == ""
    kept = {path.name for path in (ran.project.parent / "ir_datasets").rglob("*") if path.is_file()}
    assert not kept & {"collection.tsv", "collectionandqueries.tar.gz", "msmarco_v2_passage.tar"}
    assert "documents" not in ran.metrics("collection")
    assert set(json.loads((ran.project / "data/index/prebuilt.json").read_text())) == set(NAMES)


def test_the_splits(ran: Ran) -> None:
    own = {split: ran.queries(split) for split in ("train", "validation", *TRACKS)}
    assert {split: len(queries) for split, queries in own.items()} == {
        "train": 18, "validation": 2, "dl19": 4, "dl20": 4, "dl21": 4,
    }  # fmt: skip
    learnt = {**own["train"], **own["validation"]}
    tested = {plain(text) for split in TRACKS for text in own[split].values()}
    assert plain(DUPLICATE) in tested and not tested & {plain(text) for text in learnt.values()}
    assert not {UNJUDGED, ALL_ZERO} & {text for queries in own.values() for text in queries.values()}
    given = queries_and_qrels()
    assert {"what do sommeliers do all day", "meaning of niño in the weather"} <= set(learnt.values())
    for query_id, text in learnt.items():
        assert text == " ".join(given["train"][0][query_id].split())
    for split in TRACKS:
        judged = read_qrels(ran.project / f"data/collection/qrels/{split}.txt")
        assert judged == true_qrels(split) and {g for grades in judged.values() for g in grades.values()} == {
            0,
            1,
            2,
            3,
        }


def true_qrels(split: str) -> dict[str, dict[str, int]]:
    """The judgments of a set as written, of the queries that have a relevant document."""
    judged: dict[str, dict[str, int]] = {}
    for line in queries_and_qrels()[split][1].splitlines():
        query_id, _, doc_id, grade = line.split()
        judged.setdefault(query_id, {})[doc_id] = int(grade)
    return {query_id: grades for query_id, grades in judged.items() if max(grades.values()) > 0}


def test_few_shot_prompts_show_passages_of_the_index(ran: Ran) -> None:
    first, _ = collections()
    chosen = json.loads((ran.project / "data/exemplars.json").read_text())["*"]
    assert len(chosen) == 4 and ABSENT not in {e["doc_id"] for e in chosen}
    few = [content for content in ran.asked if "Passage: " in content]
    assert few and len(ran.asked) == 2 * len(few) + 4 * 4  # exemplars are not asked in this style
    for exemplar in chosen:
        passage = cut_words(first[exemplar["doc_id"]], 60)
        assert exemplar["passage"] == passage and exemplar["query_id"] in ran.queries("train")
        block = f"Query: {exemplar['query']}\nPassage: {passage}\n"
        assert all(block in content for content in few)


def test_the_teacher_was_asked_once_for_all(ran: Ran) -> None:
    learnt = {**ran.queries("train"), **ran.queries("validation")}
    expected = Counter({text: 4 for text in learnt.values()})
    expected.update({text: 1 for split in TRACKS for text in ran.queries(split).values()})
    asked = Counter(c.rpartition("Query: ")[2].removesuffix("\nPassage:") for c in ran.asked if "Passage: " not in c)
    assert asked == expected
    for style in ("zero_shot", "few_shot"):
        records = list(read_jsonl(ran.project / f"data/teacher/{style}.jsonl"))
        texts = {**learnt, **{i: text for split in TRACKS for i, text in ran.queries(split).items()}}
        said = answers()
        assert all(r["text"] in {" ".join(a.split()) for a in said[texts[r["query_id"]]]} for r in records)
        assert ran.metrics(f"teach@{style}")["missing"] == 0
        assert ran.metrics(f"cost@{style}")["completion_tokens_per_query"] > 0


def test_pairs_prefer_what_retrieves_better(ran: Ran) -> None:
    pairs = list(read_jsonl(ran.project / "data/pairs/train.jsonl"))
    figures = ran.metrics("pairs")["train"]
    assert figures["without_pairs"]["all_zero"] == 1, "the passage of one query is in no index"
    assert figures["queries"] == 18 and figures["with_pairs"] == len(pairs) == 17
    assert all(p["chosen_score"] >= p["rejected_score"] + 0.2 for p in pairs)
    said, texts = answers(), ran.queries("train")
    for pair in pairs:
        good = {said[texts[pair["query_id"]]][0], said[texts[pair["query_id"]]][2]}
        assert pair["chosen"][0]["content"] in good and pair["rejected"][0]["content"] not in good
    assert (ran.project / "data/samples.jsonl").read_text() == ""  # the paper's pairs are the teacher's
    for stage in ("sft", "dpo"):
        assert ran.metrics(stage)["steps"] > 0


def test_each_set_is_searched_in_its_own_index(ran: Ran) -> None:
    first, second = collections()
    known = {"validation": first, "dl19": first, "dl20": first, "dl21": {r["pid"]: r for r in second}}
    for split, documents in known.items():
        runs = ran.runs(split)
        assert set(runs) == set(SYSTEMS)
        found = {doc_id for run_ in runs.values() for hits in run_.values() for doc_id in hits}
        assert found and found <= set(documents)
        for system in SYSTEMS:
            assert set(runs[system]) == set(ran.queries(split)), "every query finds something"
    # Feedback analyses the stored passages anew, of both forms, as neither index holds document vectors.
    for split in TRACKS:
        runs = ran.runs(split)
        assert runs["rm3"] != runs["query"] != runs["rocchio"] != runs["rm3"]
        assert any(set(runs["rocchio"][i]) > set(runs["query"][i]) for i in runs["query"])


def test_figures_are_trec_evals(ran: Ran) -> None:
    for split in TRACKS:
        judged = true_qrels(split)
        measures = {"ndcg_cut.10", "recall.1000", "map", "recip_rank"}
        graded = pytrec_eval.RelevanceEvaluator(judged, measures)
        binary = pytrec_eval.RelevanceEvaluator(judged, measures, relevance_level=2)  # as the track counts it
        for system, found in ran.runs(split).items():
            figures = ran.metrics(f"evaluate/{split}/{system}")
            scores, strict = graded.evaluate(found), binary.evaluate(found)
            assert set(scores) == set(judged)
            for ours, theirs, source in (
                ("ndcg@10", "ndcg_cut_10", scores), ("recall@1000", "recall_1000", strict), ("ap", "map", strict), ("mrr", "recip_rank", strict),
            ):  # fmt: skip
                mean = sum(values[theirs] for values in source.values()) / len(judged)
                assert figures[ours] == pytest.approx(mean, abs=1e-6), (split, system, ours)


def test_the_teacher_beats_the_query(ran: Ran) -> None:
    for split in TRACKS:
        query, teacher = (ran.metrics(f"evaluate/{split}/{s}")["ndcg@10"] for s in ("query", "teacher-few-shot"))
        assert query < teacher <= 1
        assert ran.metrics(f"evaluate/{split}/teacher-few-shot")["vs_query"]["difference"] == pytest.approx(
            teacher - query
        )


def test_the_published_figures_are_not_reached_and_that_is_told(ran: Ran) -> None:
    published = {
        "dl19": {"query": 0.5058, "rm3": 0.5216, "rocchio": 0.5275},
        "dl20": {"query": 0.4796, "rm3": 0.4896, "rocchio": 0.4910},
        "dl21": {"query": 0.4458, "rm3": 0.4455},
    }
    assert "WARNING: not as published" in ran.output
    for split, systems in published.items():
        for system in SYSTEMS:
            figures = ran.metrics(f"evaluate/{split}/{system}")
            assert figures.get("published") == systems.get(system)
            if system in systems:
                told = f"{split}, {system}: nDCG@10 is {figures['ndcg@10']:.4f}, published {systems[system]:.4f}"
                assert told in ran.output


def test_summary_and_report(ran: Ran) -> None:
    summary = json.dumps(ran.metrics("summary"))
    assert all(split in summary for split in TRACKS)
    page = (ran.project / "report/report.html").read_text()
    assert "Prebuilt index msmarco-v2-passage: 138,364,198 documents." in page  # by pyserini's list
    data = blob(page)
    assert [test["name"] for test in data["tests"]] == list(TRACKS)
    texts = {doc_id: text for doc_id, _, text in data["docs"]}
    first, second = collections()
    passages = first | {r["pid"]: r["passage"] for r in second}
    assert any(i.startswith("msmarco_passage_") for i in texts) and any(i.isdigit() for i in texts)
    for doc_id, text in texts.items():
        assert text.split()[:5] == passages.get(doc_id, "(not in the collection)").split()[:5]
    assert texts[ABSENT].startswith("(not") and texts[ABSENT_V2].startswith("(not")


def test_no_secret_is_written(ran: Ran) -> None:
    written = [path for path in ran.project.rglob("*") if path.is_file()]
    assert any(path.name == "ledger.db" for path in written) and any(path.name == "mlflow.db" for path in written)
    assert not [path for path in written if KEY.encode() in path.read_bytes()]
    assert KEY not in ran.output
