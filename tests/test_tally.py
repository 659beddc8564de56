"""What is lost is counted and named."""

from qedistill.tally import Tally


def test_reasons_are_counted_and_the_first_few_named() -> None:
    tally = Tally()
    for number in range(1200):
        tally.add("documents left out: no text", f"d{number}")
    tally.add("rows cut: longer than sft.max_length", count=2)
    assert tally.lines() == [
        "1,200 documents left out: no text (d0, d1, d2, …)",
        "2 rows cut: longer than sft.max_length",
    ]
    assert tally.figures() == {"documents_left_out_no_text": 1200, "rows_cut_longer_than_sft_max_length": 2}
    assert Tally().lines() == [] and Tally().figures() == {}
