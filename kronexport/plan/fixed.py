"""Sites whose factors are given: only their lowering is chosen, and the others are planned around them."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from kronexport.backends.profile import TargetProfile
from kronexport.lower.forms import DENSE, Form, generate_forms
from kronexport.plan.choose import dense_plan
from kronexport.plan.cost_model import Seconds
from kronexport.plan.goals import Goal
from kronexport.records import FLOAT_BYTES, Basis, Plan, Site, SitePlan, Structure, Survey


@dataclass(frozen=True, slots=True)
class ChosenForm:
    """A form, and the seconds of the layer in it and left dense: None where they were not measured.

    ``is_cut_short``: the form goes by its estimate, since time was up before it was timed.
    """

    form: Form
    seconds: float | None = None
    dense_seconds: float | None = None
    is_cut_short: bool = False

    @property
    def basis(self) -> Basis:
        """What the choice rests on."""
        if self.is_cut_short:
            return "mixed"
        return "roofline" if self.seconds is None else "measured"


FormOf = Callable[[Site, Structure], ChosenForm]
"""The fastest form of a site at a structure; ``dense`` is one of them."""


def plan_around(
    survey: Survey,
    fixed: Mapping[str, Structure],
    goals: Sequence[Goal],
    profile: TargetProfile,
    *,
    make: Callable[[Survey, Sequence[Goal]], Plan],
    form_of: FormOf,
) -> Plan:
    """Each fixed site in its fastest form; the others dense, or by the goals if there are any.

    Goals are those of the whole network, to which the fixed sites count with what they cost; one on latency is asked
    of the other sites alone.

    Args:
        survey: sites as if all were dense, and the dense network's params and MACs.
        fixed: the structure of some of the sites; their error is 0.
        goals: none: no other site is factorized.
        profile: of the target.
        make: plans the other sites by goals.
        form_of: says the fastest form of a fixed site.

    Raises:
        GoalError: no choice for the other sites meets the goals; the message says the least that is reachable.
    """
    if not fixed:
        return make(survey, goals)
    held = {site.name: form_of(site, fixed[site.name]) for site in survey.sites if site.name in fixed}
    kept = {site.name: planned(site, held[site.name], 0.0) for site in survey.sites if site.name in held}
    rest = _rest(survey, kept)
    bases = {chosen.basis for chosen in held.values()}
    if goals and rest.sites:
        others = make(rest, [_absolute(goal, survey) for goal in goals])
        bases.add(others.basis)
    else:
        others = dense_plan(rest, profile, "no goal asks for more than the factors that the model came with")
    choices = kept | {choice.site: choice for choice in others.sites}
    basis = bases.pop() if len(bases) == 1 else "mixed"
    notes = (*_budget_notes(held.values()), *others.notes, *dense_form_notes(kept.values()))
    return replace(others, sites=tuple(choices[site.name] for site in survey.sites), basis=basis, notes=notes)


def dense_form_notes(choices: Iterable[SitePlan]) -> tuple[str, ...]:
    """What is told of layers whose factors are multiplied out: ``params`` counts what model.onnx does not hold."""
    lowerings = [choice.lowering for choice in choices if choice.structure is not None]
    if not (count := lowerings.count(DENSE)):
        return ()
    note = (
        f"{count} of {len(lowerings)} layers with factors run by their dense weight: model.onnx holds that weight, and "
        "params counts the factors; give these layers another lowering in plan.toml to ship the factors"
    )
    return (note,)


def _budget_notes(held: Collection[ChosenForm]) -> tuple[str, ...]:
    """What is told where time was up before all forms of the given factors were timed."""
    if not (count := sum(chosen.is_cut_short for chosen in held)):
        return ()
    spent = "the time budget was spent before all was timed"
    return (f"{spent}: {count} of {len(held)} layers with given factors go by estimates",)


def keep(site: Site, structure: Structure, form_of: FormOf) -> SitePlan:
    """The site with its own factors, in its fastest form."""
    return planned(site, form_of(site, structure), 0.0)


def form_by_estimate(seconds: Seconds, site: Site, structure: Structure) -> ChosenForm:
    """The form of least time by the cost model."""
    forms = generate_forms(structure, site.geometry, site.input_size)
    return ChosenForm(min(forms, key=lambda form: seconds(form, site.batch)))


def planned(site: Site, chosen: ChosenForm, rel_error: float | None) -> SitePlan:
    """The site factorized as the form says."""
    form = chosen.form
    params = form.structure.params + (site.out_channels if site.has_bias else 0)
    return SitePlan(
        site.name,
        form.structure,
        form.name,
        params,
        form.macs * site.batch,
        rel_error,
        dense_seconds=chosen.dense_seconds,
        seconds=chosen.seconds,
    )


def _rest(survey: Survey, kept: Mapping[str, SitePlan]) -> Survey:
    """The sites that are not kept, of a network in which the kept ones cost what they do."""
    saved = {
        name: sum(getattr(site, name) - getattr(kept[site.name], name) for site in survey.sites if site.name in kept)
        for name in ("params", "macs")
    }
    sites = tuple(site for site in survey.sites if site.name not in kept)
    return replace(survey, sites=sites, params=survey.params - saved["params"], macs=survey.macs - saved["macs"])


def _absolute(goal: Goal, survey: Survey) -> Goal:
    """A ratio to the dense network as elements or bytes: the network that is planned is not the dense one."""
    dense = {"params": survey.params, "macs": survey.macs, "size": survey.params * FLOAT_BYTES}
    if goal.scale is not None or goal.name not in dense:
        return goal
    return replace(goal, number=goal.number * dense[goal.name], scale=1.0)
