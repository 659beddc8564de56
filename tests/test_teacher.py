"""A teacher of one's own: a model in this process, a real server over HTTP, the command line, and where the key goes."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fault_server
import pytest
import yaml
from click.testing import CliRunner
from clone import ROOT, commit_all, copy_project, run, set_params
from fault_server import KEY
from tiny import SENTENCES, make_tiny_student

from qedistill.cli import main
from qedistill.errors import UserError
from qedistill.generation.teacher import teach, teacher_requests
from qedistill.params import Params, load_params

VARIABLE = "FAULT_SERVER_KEY"
QUERIES = {f"q{n}": text for n, text in enumerate(SENTENCES)}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_student(tmp_path_factory.mktemp("teacher") / "tiny")


def params(**changes: Any) -> Params:
    raw = yaml.safe_load((ROOT / "profiles/pyapi.yaml").read_text())
    # A random model writes in any tongue.
    raw["collection"]["language"], raw["teacher"]["tolerance"] = "en", 0.9
    raw["teacher"] |= {"max_new_tokens": 12, "max_words": 2, "samples": 2} | changes
    return Params.model_validate(raw)


def free_port() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def server(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """`transformers serve` with the tiny model; gives its port."""
    config = tiny / "generation_config.json"  # a random model hardly ever ends
    wanted = {"do_sample": True, "exponential_decay_length_penalty": [2, 1.5]}
    config.write_text(json.dumps(json.loads(config.read_text()) | wanted))
    port = free_port()
    log = tmp_path_factory.mktemp("serve") / "log"
    command = [str(Path(sys.executable).parent / "transformers"), "serve", str(tiny), "--port", str(port)]
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1"], stdout=file, stderr=file, env=os.environ | {"HF_HUB_OFFLINE": "1"}
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        for _ in range(240):
            try:
                opener.open(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            except OSError:
                assert process.poll() is None, log.read_text()
                time.sleep(0.5)
        else:
            pytest.fail(log.read_text())
        yield port
        process.kill()
        process.wait()


def test_a_local_model_answers(tiny: Path, tmp_path: Path) -> None:
    wanted = params(generator="local", model=str(tiny), asks=2)
    asked = {"zero_shot": teacher_requests("zero_shot", QUERIES, {"t": "count words"}, {}, wanted)}
    records, figures, calls = teach("zero_shot", asked, wanted, tmp_path / "unused")
    assert figures["answers"] + figures["missing"] == len(QUERIES) * 2 + 1 and figures["answers"] == len(records) > 0
    assert calls == sum(figures["calls"].values()) > len(records) and figures["prompt_tokens"] > 0
    again, _, _ = teach("zero_shot", asked, wanted, tmp_path / "unused")
    assert [r["text"] for r in again] == [r["text"] for r in records]
    assert all(r["text"] == " ".join(r["text"].split()) and r["model"] == str(tiny) for r in records)
    assert not (tmp_path / "unused").exists()


def test_too_many_answers_of_no_use_stop_the_stage(tiny: Path, tmp_path: Path) -> None:
    wanted = params(generator="local", model=str(tiny), max_new_tokens=1, tolerance=0.01)
    asked = {"zero_shot": teacher_requests("zero_shot", QUERIES, {}, {}, wanted)}
    with pytest.raises(
        UserError, match=r"1\d of 16 answers of the teacher are of no use \(.*cut.*queries q0.*tolerance"
    ):
        teach("zero_shot", asked, wanted, tmp_path / "unused")


def test_a_local_teacher_that_is_no_model() -> None:
    wanted = params(generator="local", model="no/such/model")
    with pytest.raises(UserError, match="teacher.model no/such/model: no such folder"):
        teach(
            "zero_shot", {"zero_shot": teacher_requests("zero_shot", QUERIES, {}, {}, wanted)}, wanted, Path("unused")
        )


def test_a_served_model_answers_over_http_and_once(server: int, tiny: Path, tmp_path: Path) -> None:
    api = yaml.safe_load((ROOT / "profiles/pyapi.yaml").read_text())["teacher"]["api"]
    api |= {"base_url": f"http://127.0.0.1:{server}/v1", "key_variable": None, "concurrency": 4}
    wanted = params(generator="api", model=str(tiny), api=api, asks=2)
    asked = {"zero_shot": teacher_requests("zero_shot", QUERIES, {}, {}, wanted)}
    records, figures, calls = teach("zero_shot", asked, wanted, tmp_path / "ledger.db")
    assert len(records) > 0 and calls == sum(figures["calls"].values()) and figures["completion_tokens"] > 0
    answered = {(r["query_id"], r["sample"]) for r in records}
    assert len(answered) == len(records)
    # What is answered is not asked for again; what was of no use is.
    again, _, more = teach("zero_shot", asked, wanted, tmp_path / "ledger.db")
    assert again[: len(records)] != [] and answered <= {(r["query_id"], r["sample"]) for r in again}
    assert more <= 2 * figures["missing"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone with a collection of its own and the fault server's teacher, in which nothing has run."""
    folder = tmp_path / "project"
    copy_project(folder)
    log = tmp_path / "server.jsonl"
    server, port = fault_server.start(log, faults={"429": 0.1, "empty": 0.1})
    raw = yaml.safe_load((folder / "params.yaml").read_text())
    exemplars = raw["teacher"]["exemplars"] | {"k": 1, "choose": "similar", "ids": [], "passages": "retrieved"}
    prices = {"prompt": 1.0, "cached": 0.5, "completion": 2.0}
    api = raw["teacher"]["api"] | {
        "base_url": f"http://127.0.0.1:{port}/v1",
        "key_variable": VARIABLE,
        "prices": prices,
    }
    collection = {"source": "beir", "path": "mini", "train": "train", "tests": {"test": "test"}, "validation": 0.25}
    teacher = {
        "generator": "api", "model": "m", "recordings": "mini/teacher", "exemplars": exemplars, "api": api,
        "max_cost": 1.0, "asks": 8,
    }  # fmt: skip
    set_params(folder, {"collection": collection, "teacher": teacher})
    commit_all(folder)
    monkeypatch.setenv(VARIABLE, KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("QEDISTILL_LEDGER", raising=False)
    yield folder
    server.kill()
    server.communicate()


@pytest.mark.slow
def test_the_stage_teach_by_an_api(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = run(project, "dvc", "repro", "teach")
    # 8 queries to learn from with 2 samples, 4 test queries with one; shown similar queries, none is left out.
    assert "few_shot: 20 answers to 12 queries" in output and ", cost 0.00" in output
    figures = json.loads((project / "metrics/teach@few_shot.json").read_text())
    assert figures["calls"]["answer"] == 20 and figures["cost"] > 0 and figures["missing"] == 0
    records = [json.loads(line) for line in (project / "data/teacher/few_shot.jsonl").read_text().splitlines()]
    assert len(records) == 20 and {r["prompt_tokens"] for r in records} == {100}
    chosen = json.loads((project / "data/exemplars.json").read_text())
    assert len(chosen) == 12 and all(query_id != e["query_id"] for query_id, es in chosen.items() for e in es)

    # Whatever is forgotten, nothing is asked for again, not even by an experiment in a temporary copy.
    assert "few_shot: 20 answers to 12 queries; 0 calls" in run(project, "dvc", "repro", "-f", "-s", "teach@few_shot")
    output = run(project, "dvc", "exp", "run", "--temp", "-S", "teacher.tolerance=0.02", "teach")
    assert output.count("; 0 calls") == 2

    # The key is nowhere: workspace, DVC's cache and logs, MLflow's store, ledger.
    holders = [path for path in project.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert holders == [] and KEY not in output

    monkeypatch.chdir(project)
    cli = CliRunner()
    printed = cli.invoke(main, ["ledger", "stats"], env={"COLUMNS": "160"}).output
    assert "40" in printed and "empty" in printed
    assert cli.invoke(main, ["ledger", "export", "mine"]).exit_code == 0
    exported = [json.loads(line) for line in Path("mine/few_shot.jsonl").read_text().splitlines()]
    assert exported == records
    # Recordings of it serve as the teacher, and fill another ledger.
    monkeypatch.setenv("QEDISTILL_LEDGER", "other.db")
    assert "20 answers stored, 0 known, 0 of no use" in cli.invoke(main, ["ledger", "import", "mine"]).output
    assert "0 answers stored, 20 known" in cli.invoke(main, ["ledger", "import", "mine"]).output
    assert run(project, "dvc", "repro", "-f", "-s", "teach").count("; 0 calls") == 2
    set_params(project, {"teacher": {"generator": "recorded", "recordings": "mine"}})
    assert "few_shot: 20 answers to 12 queries" in run(project, "dvc", "repro", "-s", "teach@few_shot")


@pytest.mark.slow
def test_a_wrong_key_stops_the_stage_in_one_sentence(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "sk-wrong-and-secret")
    output = run(project, "dvc", "repro", "teach@zero_shot", fails=True)
    assert f"Error: {VARIABLE}: " in output and "(401): Incorrect API key provided" in output
    assert "sk-wrong" not in output and "Traceback" not in output
    assert load_params(project / "params.yaml").teacher.generator == "api"


def test_ledger_commands_without_a_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QEDISTILL_LEDGER", str(tmp_path / "none.db"))
    shutil.copy(ROOT / "params.yaml", tmp_path)
    result = CliRunner().invoke(main, ["ledger", "stats"])
    assert result.exit_code == 1 and "no ledger yet" in result.output
    assert not (tmp_path / "none.db").exists()
    result = CliRunner().invoke(main, ["ledger", "import", str(tmp_path)])
    assert result.exit_code == 1 and "teacher.generator must be api" in result.output
