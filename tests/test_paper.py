"""The paper's table is filled from metrics/, one profile after the other."""

from pathlib import Path

from clone import ROOT

from qedistill.paper import BGE, COLUMNS, HEADER, ROWS, rows
from qedistill.params import Params, load_params
from qedistill.published import published
from qedistill.report import to_markdown
from qedistill.text import write_json

OPEN = [""] * len(COLUMNS)


def profile(name: str) -> Params:
    return load_params(ROOT / f"profiles/{name}.yaml")


def measured(folder: Path, test: str, **systems: float) -> Path:
    for system, value in systems.items():
        figures = {"ndcg@10": value, "ndcg@10_low": value - 0.05, "ndcg@10_high": value + 0.05}
        write_json(folder / f"evaluate/{test}/{system}.json", figures)
    return folder


def test_its_test_sets_and_baselines_are_those_of_the_profiles() -> None:
    profiles = [profile("trec-dl"), profile("miracl-zh")]
    names = {dataset: (params, name) for params in profiles for name, dataset in params.collection.tests.items()}
    assert {row.dataset for row in ROWS} == names.keys()
    for row in ROWS:
        if row.bm25 is not None:
            assert published(*names[row.dataset])["query"] == row.bm25 / 100


def test_one_profile_after_the_other(tmp_path: Path) -> None:
    first = measured(tmp_path / "first", "dl20", query=0.4796, dpo=0.5)
    second = measured(tmp_path / "second", "miracl-zh", query=0.1801, sft=0.3, dpo=0.31)
    once = rows(first, profile("trec-dl"))
    assert [line[4:] for line in once] == [OPEN, ["47.96 [43.0, 53.0]", "", "50.00 [45.0, 55.0]", ""], *[OPEN] * 4]
    both = rows(second, profile("miracl-zh"), f"# A page\n\n{to_markdown(HEADER, once)}\n\nand more\n")
    assert both[1] == once[1]
    assert both[3][4:] == ["18.01 [13.0, 23.0]", "30.00 [25.0, 35.0]", "31.00 [26.0, 36.0]", ""]


def test_a_new_run_replaces_all_of_the_old_one(tmp_path: Path) -> None:
    old = rows(measured(tmp_path / "old", "dl19", sft=0.5, dpo=0.6), profile("trec-dl"))
    new = rows(measured(tmp_path / "new", "dl19", dpo=0.7), profile("trec-dl"), to_markdown(HEADER, old))
    assert new[0][4:] == ["", "", "70.00 [65.0, 75.0]", ""]


def test_dense_figures_are_those_of_the_papers_encoder(tmp_path: Path) -> None:
    metrics = measured(tmp_path, "dl19.dense", dpo=0.7)
    params = profile("trec-dl")
    other = params.model_copy(update={"dense": params.dense.model_copy(update={"encoder": "another/encoder"})})
    bge = params.model_copy(update={"dense": params.dense.model_copy(update={"encoder": BGE})})
    assert [line[4:] for line in rows(metrics, other)] == [OPEN] * len(ROWS)
    assert rows(metrics, bge)[4][4:] == ["", "", "70.00 [65.0, 75.0]", ""]


def test_a_figure_without_an_interval_stands_alone(tmp_path: Path) -> None:
    write_json(tmp_path / "evaluate/dl19/dpo.json", {"ndcg@10": 0.7})
    assert rows(tmp_path, profile("trec-dl"))[0][4:] == ["", "", "70.00", ""]
