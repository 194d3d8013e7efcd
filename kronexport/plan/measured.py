"""Plans by measured time: the solver chooses, what it chose is timed, until it chooses nothing that was not.

A layer has thousands of candidates, and timing one takes a second. The roofline says what is worth a look; its seconds
are scaled by what was measured: by the measured over the estimated time of the same structure at another rank, else
of the layer left dense. Of a structure that the solver picks, all forms are timed side by side, and take the place of
the estimate. So a structure that only looked fast is passed over the next time. The last choice is among measured
candidates alone.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from types import MappingProxyType

from kronexport.backends.profile import TargetProfile
from kronexport.errors import GoalError
from kronexport.factorize.scan import ErrorScan
from kronexport.lower.forms import DENSE, Form, generate_forms
from kronexport.measure.costs import FormTimes
from kronexport.measure.micro import Trial, dense_form
from kronexport.plan.candidates import Candidate, all_candidates
from kronexport.plan.choose import choose, plan_of
from kronexport.plan.goals import Goal
from kronexport.plan.roofline import form_seconds
from kronexport.records import Plan, ProgressCallback, Site, Structure, Survey

log = logging.getLogger("kronexport")

ROUNDS = 12
"""Most times that the solver is asked; it mostly settles after three to six."""
FORMS = 11
"""Most forms of one structure that are timed, those of the least estimates: a batch with dense."""

SLACK = 0.05
"""Part of the least error that is given for time: structures of nearly equal error differ in it by half."""

Clock = Callable[[Sequence[Trial]], FormTimes]
"""Times forms on the target."""


def measured_plan(
    survey: Survey,
    scan: ErrorScan,
    goals: Sequence[Goal],
    profile: TargetProfile,
    *,
    clock: Clock,
    progress: ProgressCallback,
    shares: Mapping[str, float] = MappingProxyType({}),
) -> Plan:
    """As ``make_plan``, with seconds that ``clock`` measured; ``shares`` as for ``choose``.

    Raises:
        GoalError: no choice meets the goals on params, MACs and size; the message says the least that is reachable.
    """
    candidates = all_candidates(survey.sites, scan, profile, progress)
    choose(survey, candidates, goals)  # a goal out of reach is refused before anything is timed
    menus = [_Menu(site, tuple(options), profile) for site, options in zip(survey.sites, candidates, strict=True)]
    _time(menus, [{trial_of(menu.site, menu.dense_form)} for menu in menus], clock)
    for _ in range(ROUNDS):
        chosen = choose(survey, [menu.candidates() for menu in menus], goals, SLACK, shares)
        wanted = [menu.untimed(pick) for menu, pick in zip(menus, chosen, strict=True)]
        if not any(wanted):
            return plan_of(survey, chosen, profile, "measured")
        _time(menus, wanted, clock)
    try:
        chosen = choose(survey, [menu.timed() for menu in menus], goals, SLACK, shares)
    except GoalError:  # what was timed is not enough to meet the goals; estimates are still better than nothing
        return plan_of(
            survey, choose(survey, [menu.candidates() for menu in menus], goals, SLACK, shares), profile, "roofline"
        )
    return plan_of(survey, chosen, profile, "measured")


def ranked_forms(structure: Structure, site: Site, profile: TargetProfile) -> list[Form]:
    """The forms of a structure that need fewer MACs than the site left dense, those of the least estimates first."""
    _, *forms = generate_forms(structure, site.geometry, site.input_size)
    leaner = [form for form in forms if form.macs * site.batch < site.macs]
    return sorted(leaner, key=lambda form: form_seconds(form, profile))


def trial_of(site: Site, form: Form) -> Trial:
    """The form with what stands beside it in the network."""
    return Trial(form, site.batch, site.has_bias or site.has_norm, site.activation)


def _time(menus: Sequence["_Menu"], wanted: Sequence[set[Trial]], clock: Clock) -> None:
    """Every menu learns what became of its trials."""
    found = clock(list(dict.fromkeys(trial for trials in wanted for trial in trials)))
    for reason in sorted({f"{trial}: {reason}" for trial, reason in found.set_aside.items()}):
        log.warning("a form is set aside, since the runtime does not run it: %s", reason)
    for menu, trials in zip(menus, wanted, strict=True):
        menu.learn({trial: found.seconds.get(trial) for trial in trials})


@dataclass(slots=True)
class _Menu:
    """The candidates of one site, dense first, and what is known of their time.

    ``known`` has by structure its timed forms with their seconds, dense's under None; ``scales`` by structure, ranks
    left out, the median over timed ranks of measured over estimated seconds, infinite where the runtime runs none.
    """

    site: Site
    options: tuple[Candidate, ...]
    profile: TargetProfile
    known: dict[Structure | None, dict[Form, float]] = field(default_factory=dict)
    scales: dict[Structure | None, float] = field(default_factory=dict)

    @property
    def dense_form(self) -> Form:
        """The site left as it is."""
        return dense_form(self.site.weight_shape, self.site.geometry, self.site.input_size)

    def untimed(self, pick: Candidate) -> set[Trial]:
        """The forms to time before ``pick`` can be taken: none if its structure is known."""
        if pick.structure in self.known or pick.structure is None:
            return set()
        ranked = ranked_forms(pick.structure, self.site, self.profile)
        picked = next(form for form in ranked if form.name == pick.lowering)
        return {trial_of(self.site, form) for form in [*ranked[:FORMS], picked]}

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
                timed.append(forms[fastest] / (self.site.batch * form_seconds(fastest, self.profile)))
        self.scales = {unit: median(timed) if timed else math.inf for unit, timed in ratios.items()}
        if not self.known[None]:  # without dense's time there is nothing to compare with: the roofline serves
            self.scales[None] = 1.0

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
        scale = self.scales.get(_unit(option.structure), self.scales[None])
        dense = min(self.known.get(None, {}).values(), default=self.options[0].seconds)
        return replace(option, seconds=option.seconds * scale, pays=option.seconds * scale < dense)


def _unit(structure: Structure | None) -> Structure | None:
    """The structure at ranks of 1: whatever its ranks are."""
    return None if structure is None else replace(structure, ranks=tuple(1 for _ in structure.ranks))
