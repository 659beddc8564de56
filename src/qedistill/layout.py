"""Where the stages write, relative to the project: the names that dvc.yaml declares."""

from pathlib import Path

COLLECTION = Path("data/collection")  # corpus.jsonl, queries/<split>.tsv, qrels/<split>.txt
EXEMPLARS = Path("data/exemplars.json")
INDEX = Path("data/index")
TEACHER = Path("data/teacher")  # <style>.jsonl
SAMPLES = Path("data/samples.jsonl")  # of the SFT student, for feedback
FEEDBACK = Path("data/feedback.jsonl")
PAIRS = Path("data/pairs")  # <train, validation>.jsonl
EXPANSIONS = Path("data/expansions")  # <model>.jsonl
MODELS = Path("models")  # base; adapters sft, dpo
CHECKPOINTS = Path("checkpoints")  # what a killed training goes on from; no DVC output
RUNS = Path("runs")  # <split>/<system>.trec
METRICS = Path("metrics")
PLOTS = Path("plots")
TABLE = Path("report/results.md")


def queries(split: str) -> Path:
    return COLLECTION / "queries" / f"{split}.tsv"


def qrels(split: str) -> Path:
    return COLLECTION / "qrels" / f"{split}.txt"
