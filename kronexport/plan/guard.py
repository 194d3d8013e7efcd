"""The guard: a layer that saves no time where it stands goes back to dense, as long as every goal stays met.

Layers alone say only a part (rehearsal.py). So the planned network is timed beside ones in which a single layer runs in
the form ``dense``; where that costs no time that can be told from noise, the layer has an error for nothing. All such
layers together go back if the network is then no slower.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Final

from kronexport.lower.forms import DENSE
from kronexport.plan.choose import left_dense
from kronexport.plan.rehearsal import Rehearsal
from kronexport.records import Plan, Site, Speedup

MOST: Final = 12
"""Layers that are tried: those whose MACs are reduced least, which are the ones in doubt."""

UNTOLD: Final = 0.005
"""Part of the network's time that several layers together may cost by going back, each of them within noise."""

Allowed = Callable[[Plan], bool]
"""Whether a plan keeps all goals that can be counted."""


def guarded_plan(
    plan: Plan, sites: Collection[Site], allowed: Allowed, meets: Callable[[Plan], bool], rehearsal: Rehearsal
) -> Plan:
    """``plan`` with dense layers in place of those that do not pay.

    Args:
        plan: may name layers that are not among ``sites``: these keep their factors.
        sites: that may go back.
        allowed: asked of every layer that is tried.
        meets: asked of the outcome: whether the goals that need the network are met as well.
        rehearsal: times whole networks.
    """
    free = {site.name: site for site in sites}
    factorized = [choice for choice in plan.sites if choice.structure is not None and choice.site in free]
    doubtful = sorted(factorized, key=lambda choice: -choice.macs / free[choice.site].macs)
    names = [choice.site for choice in doubtful if allowed(_dense_at(plan, [choice.site], free))][:MOST]
    if not names:
        return plan
    effects = dict(zip(names, rehearsal.against(plan, [_run_dense(plan, name) for name in names]), strict=True))
    idle = [name for name in names if effects[name].ci95[1] >= 1]
    harmful = [name for name in idle if effects[name].ci95[0] > 1]
    for back in (idle, harmful):
        kept = _as_many_as(allowed, plan, sorted(back, key=lambda name: -effects[name].median), free)
        if kept and _is_no_slower(rehearsal, plan, kept):
            candidate = _dense_at(plan, kept, free, effects)
            if meets(candidate):
                note = f"{len(kept)} layers save no time in the network and stay dense: {', '.join(kept)}"
                return replace(candidate, notes=(*plan.notes, note))
    return plan


def _as_many_as(allowed: Allowed, plan: Plan, names: Iterable[str], free: dict[str, Site]) -> list[str]:
    """One after the other, those with which the goals still are met."""
    kept: list[str] = []
    for name in names:
        if allowed(_dense_at(plan, [*kept, name], free)):
            kept.append(name)
    return kept


def _is_no_slower(rehearsal: Rehearsal, plan: Plan, names: Collection[str]) -> bool:
    (effect,) = rehearsal.against(plan, [_run_dense(plan, *names)])
    return effect.median >= 1 - UNTOLD


def _run_dense(plan: Plan, *names: str) -> Plan:
    """The same structures, these layers in the form ``dense``: it takes no new export to time that."""
    return replace(
        plan,
        sites=tuple(replace(choice, lowering=DENSE) if choice.site in names else choice for choice in plan.sites),
    )


def _dense_at(
    plan: Plan, names: Collection[str], free: dict[str, Site], effects: Mapping[str, Speedup] | None = None
) -> Plan:
    """The plan that leaves these layers as they are; ``effects``: of each on the network's speed, for its reason."""
    reasons = {name: _reason(effect) for name, effect in (effects or {}).items()}
    sites = tuple(
        left_dense(free[choice.site], reasons.get(choice.site)) if choice.site in names else choice
        for choice in plan.sites
    )
    return replace(plan, sites=sites)


def _reason(effect: Speedup) -> str:
    low, high = effect.ci95
    speed = f"{effect.median:.3f}x as fast (95 % {low:.3f} to {high:.3f})"
    return f"factorized it saves no time in the network, which runs {speed} with this layer dense"
