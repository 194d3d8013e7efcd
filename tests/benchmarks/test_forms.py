"""The cases of the form benchmark, and what its table says of them."""

from benchmarks.forms import CASES, all_trials, planned_trials, row
from kronexport.backends.profile import load_target
from kronexport.lower.forms import DENSE


def test_each_case_is_a_square_conv_of_its_channels() -> None:
    """And what the planner times is among all forms."""
    for one in CASES:
        assert one.structure.weight_shape == (one.channels, one.channels, 3, 3)
    first = CASES[0]
    assert set(planned_trials(first, load_target("cpu"))[1:]) <= set(all_trials(first).values())


def test_a_row_compares_with_dense_and_with_the_best() -> None:
    """Speed-ups in the race are over the chosen form."""
    speedups = {"grouped-2-1": 1.0, DENSE: 0.5, "folded-1-2": 0.25, "folded-2-1": 0.4, "rows-1-2": 1.25}
    cells = row(CASES[0], all_trials(CASES[0]), "grouped-2-1", speedups)
    assert cells[0] == "64, 56x56"
    assert cells[3:] == ["5", "grouped-2-1", "2.00x", "rows-1-2", "2.50x", "0.80", "0.80x (folded-2-1)", "2.00x"]
