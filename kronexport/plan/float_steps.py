"""Which Convs of an int8 network stay in float: those that are faster so, by measured time.

Grouped Convs of few channels run slower in int8 than in float on some runtimes, and a layer may be faster with one of
its Convs in float than with all or none. What a layer gains alone a network may lose, where its neighbours then have to
turn 8 bits into floats and back: ResNet-18 ran 1.6 times as fast as dense in int8 with what its layers wanted alone,
and 2.9 times without (docs/precision.md). And neighbours may gain together what none of them gains alone, for floats
between them are not turned. So sets of Convs are tried in the whole network: those that each layer wants alone, all of
these, and all Convs of all factorized layers.
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace

from kronexport.lower.forms import dense_form, generate_forms
from kronexport.measure.micro import Trial
from kronexport.plan.measured import Clock, untimed
from kronexport.plan.rehearsal import Rehearsal
from kronexport.records import Plan, Site, SitePlan


def with_float_steps(plan: Plan, sites: Sequence[Site], clock: Clock, rehearsal: Rehearsal) -> Plan:
    """``plan`` with those ``float_steps`` that make the network faster.

    A layer that has some was timed for the plan with all of its Convs in int8, and loses the seconds of that.

    Args:
        plan: one choice for each of ``sites``, all in int8.
        sites: in the plan's order.
        clock: times layers as they stand in an int8 network.
        rehearsal: times int8 networks.

    Raises:
        KronexportError: as ``bench_models``.
    """
    variants = [_variants(site, choice) for site, choice in zip(sites, plan.sites, strict=True)]
    wanted = _fastest_alone(plan, variants, clock)
    names = [choice.site for choice in wanted.sites if choice.float_steps]
    singles = [_with(plan, wanted, [name]) for name in names]
    factorized = _factorized_in_float(plan, variants)
    whole = [wanted] if names else []
    whole += [factorized] if factorized not in (plan, wanted) else []
    if not whole:
        return plan
    effects = rehearsal.against(plan, [*singles, *whole])
    kept = [name for name, effect in zip(names, effects, strict=False) if effect.ci95[0] > 1]
    candidates = list(zip(whole, effects[len(names) :], strict=True))
    if kept and kept != names:
        some = _with(plan, wanted, kept)
        candidates += zip([some], rehearsal.against(plan, [some]), strict=True)
    faster = [pair for pair in candidates if pair[1].ci95[0] > 1]
    return max(faster, key=lambda pair: pair[1].median)[0] if faster else plan


def _with(plan: Plan, wanted: Plan, names: Sequence[str]) -> Plan:
    """``plan``, but these layers as in ``wanted``."""
    pairs = zip(plan.sites, wanted.sites, strict=True)
    return replace(plan, sites=tuple(other if one.site in names else one for one, other in pairs))


def _factorized_in_float(plan: Plan, variants: Sequence[Sequence[Trial]]) -> Plan:
    """All Convs of all layers that are not dense."""
    choices = (
        choice if choice.structure is None else untimed(replace(choice, float_steps=trials[-1].float_steps))
        for choice, trials in zip(plan.sites, variants, strict=True)
    )
    return replace(plan, sites=tuple(choices))


def _fastest_alone(plan: Plan, variants: Sequence[Sequence[Trial]], clock: Clock) -> Plan:
    seconds = clock(list(dict.fromkeys(itertools.chain.from_iterable(variants)))).seconds
    choices = []
    for choice, trials in zip(plan.sites, variants, strict=True):
        timed = [trial for trial in trials if trial in seconds]
        fastest = min(timed, key=lambda trial: seconds[trial], default=trials[0])
        planned = replace(choice, float_steps=fastest.float_steps)
        choices.append(untimed(planned) if fastest.float_steps else planned)
    return replace(plan, sites=tuple(choices))


def _variants(site: Site, choice: SitePlan) -> list[Trial]:
    """Each set of its Convs in float, none first and all last."""
    if choice.structure is None:
        form = dense_form(site.weight_shape, site.geometry, site.input_size)
    else:
        forms = generate_forms(choice.structure, site.geometry, site.input_size)
        form = next(form for form in forms if form.name == choice.lowering)
    trial = Trial.of(site, form)
    convs = range(max(1, len(form.steps)))
    sets = itertools.chain.from_iterable(itertools.combinations(convs, size) for size in range(len(convs) + 1))
    return [replace(trial, float_steps=steps) for steps in sets]
