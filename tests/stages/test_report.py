"""What the reader of a report is told beside the figures."""

from dataclasses import replace
from typing import Any

import pytest

from kronexport.measure.pair import PairFigures, SideFigures
from kronexport.records import LatencyStats, Speedup, Training
from kronexport.stages.report import load_notes, training_notes


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


@pytest.mark.parametrize(
    ("epochs", "kept", "says"),
    [
        (3, 2, "was then taught by the dense one, 3 epochs on 32 images without labels: relative L2 of its outputs"),
        (1, 0, "1 epoch on 32 images without labels, and scored no more for it: its fitted factors ship"),
        (0, 0, "was not trained: its fitted factors meet the goal on accuracy"),
    ],
)
def test_a_training_is_told_with_what_came_of_it(epochs: int, kept: int, says: str) -> None:
    training = Training("distillation", 32, labels=False, epochs=epochs, kept_epoch=kept)
    (note,) = training_notes(replace(training, error_before=0.2, error_after=0.1))
    assert says in note
    assert training_notes(None) == ()
