"""Which Convs of an int8 network stay in float: those that are faster so, layer by layer, by measured time.

Grouped Convs of few channels run slower in int8 than in float on some runtimes, and a layer may be faster with one of
its Convs in float than with all or none.
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace

from kronexport.lower.forms import dense_form, generate_forms
from kronexport.measure.micro import Trial
from kronexport.plan.measured import Clock, untimed
from kronexport.records import Plan, Site, SitePlan


def with_float_steps(plan: Plan, sites: Sequence[Site], clock: Clock) -> Plan:
    """``plan`` with the ``float_steps`` of every layer that are fastest; none where a layer could not be timed.

    A layer that has some was timed for the plan with all of its Convs in int8, and loses the seconds of that.

    Args:
        plan: one choice for each of ``sites``.
        sites: in the plan's order.
        clock: times layers as they stand in an int8 network.
    """
    variants = [_variants(site, choice) for site, choice in zip(sites, plan.sites, strict=True)]
    seconds = clock(list(dict.fromkeys(itertools.chain.from_iterable(variants)))).seconds
    choices = []
    for choice, trials in zip(plan.sites, variants, strict=True):
        timed = [trial for trial in trials if trial in seconds]
        fastest = min(timed, key=lambda trial: seconds[trial], default=trials[0])
        planned = replace(choice, float_steps=fastest.float_steps)
        choices.append(untimed(planned) if fastest.float_steps else planned)
    return replace(plan, sites=tuple(choices))


def _variants(site: Site, choice: SitePlan) -> list[Trial]:
    """Each set of its Convs in float, none first."""
    if choice.structure is None:
        form = dense_form(site.weight_shape, site.geometry, site.input_size)
    else:
        forms = generate_forms(choice.structure, site.geometry, site.input_size)
        form = next(form for form in forms if form.name == choice.lowering)
    trial = Trial.of(site, form)
    convs = range(max(1, len(form.steps)))
    sets = itertools.chain.from_iterable(itertools.combinations(convs, size) for size in range(len(convs) + 1))
    return [replace(trial, float_steps=steps) for steps in sets]
