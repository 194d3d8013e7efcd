"""What stays in float: what moves the outputs most, as few as suffice."""

from collections.abc import Sequence

import numpy as np

from kronexport.verify.harmful import SHOWN, few, keep_harmful
from kronexport.verify.outputs import Outputs

MOVES = {"a": 1.0, "b": 4.0, "c": 2.0, "d": 4.0}


def outputs(in_float: Sequence[str]) -> Outputs:
    return {"y": np.array([sum(moved for name, moved in MOVES.items() if name not in in_float)])}


def error(found: Outputs) -> float:
    return float(found["y"][0])


def test_as_few_as_suffice_stay_the_worst_first_and_of_equal_ones_the_first() -> None:
    for tolerance, kept in ((11.0, []), (7.0, ["b"]), (3.0, ["b", "d"]), (1.0, ["b", "d", "c"])):
        assert keep_harmful(list(MOVES), outputs, error, tolerance) == (kept, outputs(kept))


def test_all_stay_where_even_that_does_not_suffice() -> None:
    kept, found = keep_harmful(list(MOVES), outputs, error, -1.0)
    assert (kept, error(found)) == (["b", "d", "c", "a"], 0.0)


def test_others_are_looked_at_where_the_first_do_not_suffice() -> None:
    for tolerance, kept in ((6.0, ["b", "a"]), (5.0, ["b", "d"])):
        assert keep_harmful(["a", "b"], outputs, error, tolerance, ["c", "d"]) == (kept, outputs(kept))


def test_a_note_names_few() -> None:
    names = [str(number) for number in range(SHOWN + 1)]
    assert few(names[:2]) == "0, 1"
    assert few(names) == f"{', '.join(names[:SHOWN])}, ..."
