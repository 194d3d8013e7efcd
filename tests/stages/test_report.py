"""What the reader of a report is told beside the figures."""

from typing import Any

import pytest

from kronexport.measure.pair import PairFigures, SideFigures
from kronexport.records import LatencyStats, Speedup
from kronexport.stages.report import load_notes


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"before": {"load_average": [5.1, 4.0, 3.0]}, "logical_cores": 2}, True),
        ({"before": {"load_average": [2.4, 4.0, 3.0]}, "logical_cores": 2}, False),  # the build's own
        ({"before": {"load_average": [5.1, 4.0, 3.0]}, "logical_cores": 8}, False),
        ({"before": {"load_average": None}, "logical_cores": 2}, False),
        ({}, False),
    ],
)
def test_a_busy_machine_is_told_of(environment: dict[str, Any], *, told: bool) -> None:
    side = SideFigures(LatencyStats(1, *[1.0] * 7), None, None)
    found = load_notes(PairFigures(side, side, Speedup(1.5, (1.4, 1.6), "faster"), environment, {}, {}))
    assert [note.startswith("the machine was busy") for note in found] == [True] * told
    assert load_notes(None) == ()
