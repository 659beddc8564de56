"""A process that asks: python asker.py LEDGER PORT REQUESTS [API as JSON]; prints the outcome."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qedistill.generation.api import ask
from qedistill.generation.ledger import Ledger
from qedistill.generation.request import Request
from qedistill.params import Teacher, load_params

VARIABLE = "FAULT_SERVER_KEY"


def teacher(port: int, max_cost: float | None = None, **changes: Any) -> Teacher:
    """The default's teacher, of whom three answers are asked at most, at a port of this machine."""
    usual = load_params(Path(__file__).parents[1] / "profiles/pyapi.yaml").teacher
    api = usual.api.model_dump() | {
        "base_url": f"http://127.0.0.1:{port}/v1", "key_variable": VARIABLE, "timeout": 2.0,
        "prices": {"prompt": 1.0, "cached": 0.5, "completion": 2.0},
    }  # fmt: skip
    known = {"generator": "api", "model": "m", "max_cost": max_cost, "api": api | changes}
    return Teacher.model_validate(usual.model_dump() | known)


def make_requests(count: int) -> list[Request]:
    options = {"temperature": 0.8, "max_tokens": 64}
    return [
        Request(f"q{n}", f"need {n}", "zero_shot", 0, "m", [{"role": "user", "content": f"need {n}"}], options)
        for n in range(count)
    ]


def main(arguments: Sequence[str]) -> None:
    ledger, port, count, *changes = arguments
    settings = teacher(int(port), **(json.loads(changes[0]) if changes else {}))
    with Ledger(Path(ledger)) as opened:
        outcome = ask(make_requests(int(count)), settings, "en", opened)
    print(json.dumps({"answers": len(outcome.answers), "asked": outcome.asked, "calls": outcome.calls}))


if __name__ == "__main__":
    main(sys.argv[1:])
