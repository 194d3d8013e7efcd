"""Plans by measured time: the solver chooses, what it chose is timed, until it chooses nothing that was not.

A layer has thousands of candidates, and timing one takes a second. The cost model says what is worth a look; its
seconds are scaled by what was measured: by the measured over the estimated time of the same structure at another rank,
else by that of other structures of the layer. Of a structure that the solver picks, all forms are timed side by side,
and take the place of the estimate. So a structure that only looked fast is passed over the next time. The last choice
is among measured candidates alone, unless time is up before.
"""

import logging
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from statistics import median

import numpy as np

from kronexport.backends.profile import TargetProfile
from kronexport.errors import GoalError
from kronexport.lower.forms import DENSE, Form, generate_forms
from kronexport.measure.costs import FormTimes
from kronexport.measure.micro import Trial
from kronexport.plan.candidates import Candidate
from kronexport.plan.choose import GOALS_ALONE, Steering, choose, plan_of
from kronexport.plan.cost_model import Seconds
from kronexport.plan.fixed import ChosenForm, form_by_estimate
from kronexport.plan.goals import Goal
from kronexport.records import Plan, Site, SitePlan, Structure, Survey

log = logging.getLogger("kronexport")

ROUNDS = 12
"""Most times that the solver is asked; it mostly settles after three to six."""
FORMS = 11
"""Most forms of one structure that are timed, those of the least estimates: a batch with dense.

Of seven by the roofline the fastest was not always one; by a cost model that was fitted it was."""

FAR = 3.0
"""Times the least estimate of a structure's forms above which one is not timed: some fill the memory with images."""

SLACK = 0.05
"""Part of the least error that is given for time: structures of nearly equal error differ in it by half."""

HOPE = 0.25
"""A structure of which no rank was timed is taken to be, over its estimate, where so much of the layer's timed ones are
below, dense among them. By dense alone all that estimates flatter are timed, one after the other; by the median few."""

LEAST_GAIN = 0.03
"""Part of the error or of the time that estimates have to promise for another round: times differ by as much."""

Clock = Callable[[Sequence[Trial]], FormTimes]
"""Times forms on the target."""


def measured_plan(
    survey: Survey,
    menus: Sequence["Menu"],
    goals: Sequence[Goal],
    profile: TargetProfile,
    *,
    clock: Clock,
    steering: Steering = GOALS_ALONE,
) -> Plan:
    """As ``make_plan``, with seconds that ``clock`` measured.

    Args:
        survey: sites, and the whole network's params and MACs.
        menus: one a site; what they learn serves other plans, too.
        goals: as for ``choose``.
        profile: of the target.
        clock: times forms on it. Where time is up before all was timed, the plan's ``notes`` say so.
        steering: as for ``choose``.

    Raises:
        GoalError: no choice meets the goals on params, MACs and size; the message says the least that is reachable.
    """
    # goals out of reach are refused before anything is timed
    choose(survey, [menu.options for menu in menus], goals, steering=steering)
    if any(undone := [menu.untimed_dense() for menu in menus]):
        _time(menus, undone, clock)
    for _ in range(ROUNDS):
        chosen = choose(survey, [menu.candidates() for menu in menus], goals, SLACK, steering)
        wanted = [menu.untimed(pick) for menu, pick in zip(menus, chosen, strict=True)]
        if not any(wanted):
            return _of_timed(survey, menus, chosen, profile)
        with suppress(GoalError):
            timed = choose(survey, [menu.timed() for menu in menus], goals, SLACK, steering)
            if _is_as_good(timed, chosen):
                return _of_timed(survey, menus, timed, profile)
        if not _time(menus, wanted, clock):
            chosen = choose(survey, [menu.candidates() for menu in menus], goals, SLACK, steering)
            return _cut_short(survey, menus, chosen, profile)
    try:
        chosen = choose(survey, [menu.timed() for menu in menus], goals, SLACK, steering)
    except GoalError:  # what was timed is not enough to meet the goals; estimates are still better than nothing
        chosen = choose(survey, [menu.candidates() for menu in menus], goals, SLACK, steering)
        return plan_of(survey, chosen, profile, "mixed")
    return _of_timed(survey, menus, chosen, profile)


def with_times(plan: Plan, menus: Sequence["Menu"]) -> Plan:
    """``plan`` with the seconds of each layer that was timed, dense and as planned, for the reader of the report."""
    timed = {menu.site.name: menu.timed() for menu in menus if menu.is_timed}
    choices = []
    for choice in plan.sites:
        known = timed.get(choice.site, [])
        planned = (pick for pick in known if (pick.structure, pick.lowering) == (choice.structure, choice.lowering))
        if (pick := next(planned, None)) is not None:
            choices.append(replace(choice, dense_seconds=known[0].seconds, seconds=pick.seconds))
        else:
            choices.append(choice)
    return replace(plan, sites=tuple(choices))


def untimed(choice: SitePlan) -> SitePlan:
    """The layer without seconds: what was timed is not what it becomes."""
    return replace(choice, dense_seconds=None, seconds=None)


def _is_as_good(timed: Sequence[Candidate], estimated: Sequence[Candidate]) -> bool:
    """Whether what is promised beyond measured candidates is not worth timing it."""

    def total(chosen: Sequence[Candidate], name: str) -> float:
        return float(sum(getattr(pick, name) for pick in chosen))

    return all(total(timed, name) <= (1 + LEAST_GAIN) * total(estimated, name) for name in ("cubed_error", "seconds"))


def ranked_forms(structure: Structure, site: Site, seconds: Seconds) -> list[Form]:
    """The forms of a structure that need fewer MACs than the site left dense, those of the least estimates first."""
    _, *forms = generate_forms(structure, site.geometry, site.input_size)
    leaner = [form for form in forms if form.macs * site.batch < site.macs]
    return sorted(leaner, key=lambda form: seconds(form, site.batch))


def worth_timing(structure: Structure, site: Site, seconds: Seconds) -> list[Form]:
    """Of the ``ranked_forms`` those that may be the fastest."""
    ranked = ranked_forms(structure, site, seconds)[:FORMS]
    return [form for form in ranked if seconds(form, site.batch) <= FAR * seconds(ranked[0], site.batch)]


def form_by_clock(clock: Clock, seconds_of: Seconds, site: Site, structure: Structure) -> ChosenForm:
    """The form of least measured time; of least estimate where none could be timed.

    Forms that were not reached before time was up go by their estimates, times the median of measured over estimated
    seconds of the others.
    """
    dense, *_ = generate_forms(structure, site.geometry, site.input_size)
    forms = [dense, *worth_timing(structure, site, seconds_of)]
    found = clock([Trial.of(site, form) for form in forms])
    _warn_of(found)
    seconds = {trial.form: taken for trial, taken in found.seconds.items()}
    scale = median(taken / seconds_of(form, site.batch) for form, taken in seconds.items()) if seconds else 1.0
    left = {trial.form: scale * seconds_of(trial.form, site.batch) for trial in found.left}
    expected = seconds | left
    if not expected:
        return form_by_estimate(seconds_of, site, structure)
    fastest = min(expected, key=lambda form: expected[form])
    return ChosenForm(fastest, seconds.get(fastest), seconds.get(dense), is_cut_short=fastest in left)


def _of_timed(survey: Survey, menus: Sequence["Menu"], chosen: Sequence[Candidate], profile: TargetProfile) -> Plan:
    """The plan of what is not to be timed any more, which dense is too where time was up before it was."""
    if all(menu.knows(pick) for menu, pick in zip(menus, chosen, strict=True)):
        return plan_of(survey, chosen, profile, "measured")
    return _cut_short(survey, menus, chosen, profile)


def _cut_short(survey: Survey, menus: Sequence["Menu"], chosen: Sequence[Candidate], profile: TargetProfile) -> Plan:
    """The plan when time is up: by measured seconds where they are known, by estimates where not."""
    estimated = sum(not menu.knows(pick) for menu, pick in zip(menus, chosen, strict=True))
    note = f"the time budget was spent before all was timed: {estimated} of {len(menus)} layers go by estimates"
    return replace(plan_of(survey, chosen, profile, "mixed" if estimated else "measured"), notes=(note,))


def _warn_of(found: FormTimes) -> None:
    for reason in sorted({f"{trial}: {reason}" for trial, reason in found.set_aside.items()}):
        log.warning("a form is set aside, since the runtime does not run it: %s", reason)


def _time(menus: Sequence["Menu"], wanted: Sequence[set[Trial]], clock: Clock) -> bool:
    """Every menu learns what became of its trials; whether all of them were reached."""
    found = clock(list(dict.fromkeys(trial for trials in wanted for trial in trials)))
    _warn_of(found)
    for menu, trials in zip(menus, wanted, strict=True):
        menu.learn({trial: found.seconds.get(trial) for trial in trials.difference(found.left)})
    return not found.left


@dataclass(slots=True)
class Menu:
    """The candidates of one site, dense first, and what is known of their time.

    ``known`` has by structure its timed forms with their seconds, dense's under None; ``scales`` by structure, ranks
    left out, the median over timed ranks of measured over estimated seconds, infinite where the runtime runs none.
    ``usual`` is what a structure is scaled by of which no rank was timed.
    """

    site: Site
    options: tuple[Candidate, ...]
    seconds: Seconds
    known: dict[Structure | None, dict[Form, float]] = field(default_factory=dict)
    scales: dict[Structure | None, float] = field(default_factory=dict)
    usual: float = 1.0

    @property
    def is_timed(self) -> bool:
        """Whether there is a time of dense, which others are compared with."""
        return bool(self.known.get(None))

    def knows(self, pick: Candidate) -> bool:
        """Whether ``pick`` was timed, or was to be and the runtime does not run it."""
        return pick.structure in self.known

    def untimed_dense(self) -> set[Trial]:
        """The site left as it is, if that was not timed yet."""
        return set() if None in self.known else {Trial.left_dense(self.site)}

    def untimed(self, pick: Candidate) -> set[Trial]:
        """The forms to time before ``pick`` can be taken: none if its structure is known."""
        if pick.structure is None or self.knows(pick):
            return set()
        ranked = ranked_forms(pick.structure, self.site, self.seconds)
        picked = next(form for form in ranked if form.name == pick.lowering)
        worth = worth_timing(pick.structure, self.site, self.seconds)
        return {Trial.of(self.site, form) for form in [*worth, picked]}

    def learn(self, found: dict[Trial, float | None]) -> None:
        """Keep the seconds of each trial; None: it was set aside."""
        for trial, seconds in found.items():
            structure = None if trial.form.name == DENSE else trial.form.structure
            forms = self.known.setdefault(structure, {})
            if seconds is not None:
                forms[trial.form] = seconds
        ratios: dict[Structure | None, list[float]] = {}
        for structure, forms in self.known.items():
            timed = ratios.setdefault(_unit(structure), [])
            if forms:
                fastest = min(forms, key=lambda form: forms[form])
                timed.append(forms[fastest] / self.seconds(fastest, self.site.batch))
        self.scales = {unit: median(timed) if timed else math.inf for unit, timed in ratios.items()}
        if not self.is_timed:  # without dense's time there is nothing to compare with: the estimates serve
            self.scales[None] = 1.0
        finite = [scale for scale in self.scales.values() if scale < math.inf]
        self.usual = float(np.quantile(finite, HOPE, method="lower"))  # lest one of two, far off, speak for all

    def candidates(self) -> list[Candidate]:
        """All that the runtime may run: with measured seconds where they are known, and scaled estimates where not."""
        untimed = [self._estimated(option) for option in self.options[1:] if option.structure not in self.known]
        return [*self.timed(), *(option for option in untimed if option.seconds < math.inf)]

    def timed(self) -> list[Candidate]:
        """Those whose time is known, dense first."""
        dense = self.options[0]
        seconds = min(self.known.get(None, {}).values(), default=dense.seconds)
        found = [replace(dense, seconds=seconds)]
        for option in {option.structure: option for option in self.options[1:]}.values():
            for form, taken in self.known.get(option.structure, {}).items():
                found.append(
                    replace(
                        option,
                        lowering=form.name,
                        macs=form.macs * self.site.batch,
                        weights=form.weights + (self.site.out_channels if self.site.has_bias else 0),
                        seconds=taken,
                        pays=taken < seconds,
                    )
                )
        return found

    def _estimated(self, option: Candidate) -> Candidate:
        scale = self.scales.get(_unit(option.structure), self.usual)
        dense = min(self.known.get(None, {}).values(), default=self.options[0].seconds)
        return replace(option, seconds=option.seconds * scale, pays=option.seconds * scale < dense)


def _unit(structure: Structure | None) -> Structure | None:
    """The structure at ranks of 1: whatever its ranks are."""
    return None if structure is None else replace(structure, ranks=tuple(1 for _ in structure.ranks))
