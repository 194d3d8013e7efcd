"""What stays in float so that the outputs keep near: what moves them most goes first."""

from collections.abc import Callable, Sequence

from kronexport.verify.outputs import Outputs

SHOWN = 5
"""Names that a note has."""


def keep_harmful(
    names: Sequence[str],
    outputs: Callable[[Sequence[str]], Outputs],
    error: Callable[[Outputs], float],
    tolerance: float,
    others: Sequence[str] = (),
) -> tuple[list[str], Outputs]:
    """The names that have to stay in float, and the outputs with them; all of them where even that does not suffice.

    Each is first tried in the lower precision alone; those that move the outputs most stay in float, one after the
    other, until the error is at most the tolerance. Of those that move them alike the first goes first.

    Args:
        names: nodes or layers that may stay in float.
        outputs: of the model with these names in float, besides what stays so anyway.
        error: of outputs against those of the model in float.
        tolerance: largest error.
        others: more names, looked at where all of the first in float do not suffice.
    """
    found = outputs([])
    if error(found) <= tolerance:
        return [], found
    if others and error(outputs(names)) > tolerance:
        names = [*names, *others]

    def alone(name: str) -> float:
        return error(outputs([other for other in names if other != name]))

    harmful: list[str] = []
    for name in sorted(names, key=alone, reverse=True):
        harmful.append(name)
        found = outputs(harmful)
        if error(found) <= tolerance:
            break
    return harmful, found


def few(names: Sequence[str]) -> str:
    """The first of them, for a note."""
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
