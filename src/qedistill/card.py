"""The distilled student's model card."""

import json
from pathlib import Path

from qedistill.evaluation import STUDENTS
from qedistill.params import Params
from qedistill.text import read_json
from qedistill.training.data import student_prompt


def model_card(student: Path, experiment: str, table: str, metrics: Path, params: Params) -> str:
    """Markdown, with the front matter of a Hugging Face model card.

    Args:
        student: its folder; only the name is told.
        table: the results, as Markdown.
        metrics: folder of the stages' figures.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    pairs = read_json(metrics / "pairs.json")["train"]
    costs = {name: read_json(metrics / f"cost@{name}.json") for name in STUDENTS}
    environment = Environment(loader=PackageLoader("qedistill", "."), undefined=StrictUndefined, autoescape=False)
    return environment.get_template("card.md.j2").render(
        title=f"{params.tracking.model or 'student'}: {student.name}",
        experiment=experiment,
        # A folder's place on this machine is nobody's business.
        base=Path(params.student.model).name if Path(params.student.model).is_absolute() else params.student.model,
        params=params,
        queries=pairs["queries"],
        pairs=pairs["pairs"],
        table=table.strip(),
        costs=costs,
        cost=costs[student.name],
        folder=student.name,
        prompt=json.dumps(
            student_prompt("YOUR QUERY", params.student, params.collection), ensure_ascii=False, indent=1
        ),
        weight=read_json(metrics / "retrieve.json")["query_weight"][student.name],
    )  # fmt: skip
