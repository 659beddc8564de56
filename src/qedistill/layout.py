"""Where the stages write, relative to the project: the names that dvc.yaml declares."""

import os
from pathlib import Path

COLLECTION = Path("data/collection")  # corpus.jsonl, queries/<split>.tsv, qrels/<split>.txt
EXEMPLARS = Path("data/exemplars.json")
INDEX = Path("data/index")
DENSE = Path("data/dense")  # a FAISS index and its document ids, where there is dense retrieval
TEACHER = Path("data/teacher")  # <style>.jsonl
SAMPLES = Path("data/samples.jsonl")  # of the SFT student, for feedback
FEEDBACK = Path("data/feedback.jsonl")
PAIRS = Path("data/pairs")  # <train, validation>.jsonl
EXPANSIONS = Path("data/expansions")  # <model>.jsonl
MODELS = Path("models")  # base; adapters sft, dpo
CHECKPOINTS = Path("checkpoints")  # what a killed training goes on from; no DVC output
PROFILES = Path("profiles")
RUNS = Path("runs")  # <part>/<system>.trec
METRICS = Path("metrics")
PLOTS = Path("plots")
SUMMARY = METRICS / "summary.json"  # the headline, by which experiments are compared
TABLE = Path("report/results.md")
REPORT = Path("report/report.html")


RETRIEVERS = ("sparse", "dense", "fused")


def part(split: str, retriever: str) -> str:
    """What a retriever's runs and figures on a split are called: the split alone for sparse retrieval."""
    return split if retriever == "sparse" else f"{split}.{retriever}"


def queries(split: str) -> Path:
    return COLLECTION / "queries" / f"{split}.tsv"


def qrels(split: str) -> Path:
    return COLLECTION / "qrels" / f"{split}.txt"


def repository_root(folder: Path) -> Path:
    """The repository root of the folder a stage runs in, which DVC may have made a temporary copy inside the root.

    DVC_ROOT says so too, but is inherited when one repository's stage runs another's.
    """
    head, mark, _ = folder.as_posix().partition("/.dvc/tmp/exps/")
    return Path(head) if mark else folder


def profiles() -> list[Path]:
    """The project's profiles, in alphabetical order; not what editors put beside them (`.#own.yaml`, `~own.yaml`)."""
    found = (path for path in PROFILES.glob("*.yaml") if path.name[0].isalnum() and path.is_file())
    return sorted(found, key=lambda path: path.stem)


def ledger() -> Path:
    """Where an API teacher's answers are kept: $QEDISTILL_LEDGER, relative to the repository root, else ledger.db there."""
    return repository_root(Path.cwd()) / Path(os.environ.get("QEDISTILL_LEDGER") or "ledger.db").expanduser()
