"""Why a layer that could be factorized stays dense, for the reader of the report."""

import math
from collections.abc import Sequence
from dataclasses import replace

from kronexport.plan.measured import Menu
from kronexport.records import Plan

NOTHING_SMALLER = "no structure that is looked at needs fewer parameters and MACs than dense"


def with_reasons(plan: Plan, menus: Sequence[Menu]) -> Plan:
    """``plan`` in which every layer that was left dense says why, by what is known by now; told reasons stay."""
    why = {menu.site.name: menu for menu in menus}
    sites = tuple(
        replace(choice, reason=why_dense(why[choice.site]))
        if choice.structure is None and choice.reason is None and choice.site in why
        else choice
        for choice in plan.sites
    )
    return replace(plan, sites=sites)


def why_dense(menu: Menu) -> str:
    """What the solver had against the layer's candidates: their time where none is faster than dense, else their error.

    Of those that were timed; of all of them, by estimate, where none was.
    """
    if len(menu.options) == 1:
        return NOTHING_SMALLER
    dense, *timed = menu.timed()
    known = timed or menu.candidates()[1:]
    if not known:
        return "the runtime runs none of its forms"
    best = min(known, key=lambda candidate: candidate.seconds)
    kind = "timed" if timed else "by estimate"
    speed = f"{dense.seconds / best.seconds:.2f}x as fast"
    if best.seconds >= dense.seconds:
        return f"dense is the fastest: the best other form ({kind}) runs {speed}"
    error = math.sqrt(best.squared_error)
    return (
        f"the goals are met at less error with this layer as it is; its fastest form ({kind}) runs {speed}, "
        f"with a weight error of {error:.3f}"
    )
