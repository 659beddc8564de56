"""Put the evidence into one HTML file that needs nothing else: report/report.html.

Reads params `report`, and for what it tells of them all others. Each word of the expansions is left out in turn and the
query searched again, so that the report can say which words moved the relevant documents.
"""

import click

from qedistill.html import build
from qedistill.layout import REPORT
from qedistill.params import load_params
from qedistill.tracking import stage_run


@click.command(help=__doc__)
def main() -> None:
    params = load_params()
    with stage_run("report", params) as run:
        figures = build(params, REPORT)
        run.experiment.artifact(REPORT)
    click.echo(
        f"{REPORT}: {figures['bytes'] / 1e6:.1f} MB, {figures['queries']} queries, {figures['left_out']} words left out"
    )


if __name__ == "__main__":
    main()
