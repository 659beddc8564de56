"""Make chosen/rejected pairs of the scored candidates: data/pairs/train.jsonl and, empty without `dpo.evaluations`, validation.jsonl.

Reads params `pairs`, `dpo.evaluations`, `student.prompt`, `student.max_words`, `collection.language` and `collection.document`.
metrics/pairs.json tells how many queries gave pairs and why the others did not.
"""

from typing import Any

import click

from qedistill.feedback import from_source, make_pairs
from qedistill.layout import FEEDBACK, METRICS, PAIRS, queries
from qedistill.params import load_params
from qedistill.tally import Tally
from qedistill.text import atomic, read_jsonl, read_queries, write_json, write_jsonl
from qedistill.tracking import stage_run
from qedistill.training.data import dpo_rows


@click.command(help=__doc__)
def main() -> None:
    params = load_params()
    with stage_run("pairs", params) as run:
        candidates = from_source(list(read_jsonl(FEEDBACK)), params.pairs.candidates)
        figures: dict[str, Any] = {}
        tally = Tally()
        with atomic(PAIRS) as folder:
            for split in ("train", "validation"):
                texts = read_queries(queries(split))
                own = [candidate for candidate in candidates if candidate["query_id"] in texts]
                pairs, told = make_pairs(own, params.pairs)
                rows = dpo_rows(texts, pairs, params.student, params.collection, tally)
                if split in params.pair_splits:
                    figures[split] = told | {"pairs": len(rows)}
                write_jsonl(folder / f"{split}.jsonl", rows)
        tally.tell()
        figures["told"] = tally.figures()
        write_json(METRICS / "pairs.json", figures)
        run.metrics(figures)
    train = figures["train"]
    click.echo(f"{train['pairs']} pairs of {train['with_pairs']} of {train['queries']} training queries; none from: " + ", ".join(
        f"{count} {reason}" for reason, count in train["without_pairs"].items()))  # fmt: skip


if __name__ == "__main__":
    main()
