"""What several test files use: the pipeline, run once."""

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import fault_server
import pytest
from clone import TOPICS, commit_all, copy_project, run, set_params
from tiny import make_encoder, make_tiny_student

Start = Callable[..., tuple[int, Path]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a fault server; gives its port and its log."""
    servers = []

    def start(**options: Any) -> tuple[int, Path]:
        log = tmp_path / f"server{len(servers)}.jsonl"
        server, port = fault_server.start(log, **options)
        servers.append(server)
        return port, log

    yield start
    for server in servers:
        server.kill()
        server.communicate()


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this project as a repository of its own, with its own collection, teacher and student."""
    folder = tmp_path_factory.mktemp("clone") / "project"
    copy_project(folder)
    make_tiny_student(folder / "tiny")
    random = Random(0)
    signs = sorted(set("".join([*TOPICS, *TOPICS.values()])) - {" "})
    make_encoder(folder / "encoder", {sign: [random.gauss(0, 1) for _ in range(64)] for sign in signs})
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
            "cost": {"queries": 2, "batch_sizes": [2, 4]},
        },
    )  # fmt: skip
    commit_all(folder)
    return folder


@pytest.fixture(scope="session")
def reproduced(project: Path) -> str:
    output = run(project, "dvc", "repro")
    run(project, "git", "add", "-A")
    run(project, "git", "commit", "-qm", "results")
    return output
