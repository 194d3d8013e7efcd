"""What the lowering is worth in a whole network: the planned one beside the same factors run as the papers run them.

    python -m benchmarks.papers_lowering --target cpu --threads 1 [--model sample:resnet18] [--goal "macs<=0.25"]

The papers' forward puts all axes that a step keeps into the batch, with permutes between (forms ``folded``); each
layer gets the faster of both orders. It is that of Kronecker products: other methods' chains leave little to choose, so
beside the plan of all methods there is one of pairs alone, and that one is run both ways. All are timed in one process,
interleaved with dense.
"""

import argparse
import math
from dataclasses import replace

from benchmarks.planning import network_reduction
from benchmarks.table import line
from benchmarks.timed import build_config, measured_heading, speedup_text, timing_parser
from kronexport.backends.profile import TargetProfile, load_target
from kronexport.config import BuildConfig
from kronexport.instruments import instruments_for
from kronexport.lower.forms import Form, generate_forms
from kronexport.measure.costs import measure_forms
from kronexport.measure.micro import Trial
from kronexport.measure.setting import Setting, Timing
from kronexport.measure.store import MeasurementStore
from kronexport.pipeline import dry_run
from kronexport.plan.candidates import all_candidates
from kronexport.plan.choose import Steering, dense_plan
from kronexport.plan.families import FAMILIES
from kronexport.plan.in_context import tuned_plan
from kronexport.plan.measured import Menu, measured_plan
from kronexport.plan.rehearsal import Rehearsal
from kronexport.records import Plan, Site, SitePlan, Speedup, Survey, silent
from kronexport.request import check_request
from kronexport.stages.compress import scan_stage
from kronexport.survey.project import Project

TIMING = Timing(seconds=5.0, rounds=20, warmup_seconds=1.0)
PAIRS = "gkpd"
COLUMNS = "network", "fewer MACs", "speed-up (95 %)", "realized"


def pairs_plan(project: Project, config: BuildConfig, profile: TargetProfile) -> Plan:
    """What the planner makes of the goals with Kronecker pairs alone, before layers that do not pay go back.

    Raises:
        GoalError: no choice meets the goals; the message says the least that is reachable.
    """
    goals = check_request(config).goals
    instruments = instruments_for(config, project)(profile, silent)
    assert instruments is not None  # noqa: S101  both targets run here
    sites, scan, model = project.survey.sites, scan_stage(project, ()), instruments.model
    candidates = all_candidates(sites, scan, model, silent, {PAIRS: FAMILIES[PAIRS]})
    menus = [Menu(site, tuple(options), model.seconds) for site, options in zip(sites, candidates, strict=True)]

    def plan_at(steering: Steering) -> Plan:
        return measured_plan(project.survey, menus, goals, profile, clock=instruments.clock, steering=steering)

    return tuned_plan(plan_at, goals, instruments.rehearsal)


def papers_forms(site: Site, choice: SitePlan) -> list[Form]:
    """The forms of a factorized site that are the papers' forward: factors in natural order, and in the reverse.

    An order that needs as many MACs as dense is left out, unless both do: its images may fill the memory. Where a step
    keeps no axis folding is the same as grouping, and the form has that name.
    """
    assert choice.structure is not None  # noqa: S101  for the type checker
    forms = {form.name: form for form in generate_forms(choice.structure, site.geometry, site.input_size)}
    natural = [str(index + 1) for index in range(len(choice.structure.factors))]
    orders = "-".join(natural), "-".join(reversed(natural))
    found = [forms.get(f"folded-{order}") or forms[f"grouped-{order}"] for order in orders]
    lean = [form for form in found if form.macs * site.batch < site.macs]
    return lean or [min(found, key=lambda form: form.macs)]


def papers_plan(survey: Survey, plan: Plan, profile: TargetProfile, threads: int) -> Plan:
    """``plan`` with each factorized site in the faster of its ``papers_forms``."""
    sites = {site.name: site for site in survey.sites}
    options = {
        choice.site: [Trial.of(sites[choice.site], form) for form in papers_forms(sites[choice.site], choice)]
        for choice in plan.sites
        if choice.structure is not None
    }
    wanted = list(dict.fromkeys(trial for trials in options.values() for trial in trials))
    with MeasurementStore() as store:
        seconds = measure_forms(wanted, profile, threads, store, progress=silent).seconds
    taken = {name: min(trials, key=lambda trial: seconds.get(trial, math.inf)).form for name, trials in options.items()}
    return replace(plan, sites=tuple(_in_form(choice, sites, taken.get(choice.site)) for choice in plan.sites))


def row(name: str, fewer_macs: float, speedup: Speedup) -> list[str]:
    """One network against dense; "realized" is what its speed-up makes of its MACs."""
    return [name, f"{fewer_macs:.2f}x", speedup_text(speedup), f"{speedup.median / fewer_macs:.2f}"]


def _in_form(choice: SitePlan, sites: dict[str, Site], form: Form | None) -> SitePlan:
    if form is None:
        return choice
    return replace(choice, lowering=form.name, macs=form.macs * sites[choice.site].batch)


def _arguments() -> argparse.Namespace:
    parser = timing_parser(__doc__)
    parser.add_argument("--model", default="sample:resnet18", help="MODEL, as of kronexport build")
    parser.add_argument("--goal", action="append", help='default: "macs<=0.25"')
    return parser.parse_args()


def main() -> None:
    """Plan, time the four networks, print the table."""
    args = _arguments()
    goals = tuple(args.goal or ("macs<=0.25",))
    profile = load_target(args.target)
    title = f"{args.model}, goals {', '.join(goals)}"
    heading = measured_heading(title, COLUMNS, profile, args.threads)
    config = build_config(args.model, args, goal=goals)
    found = dry_run(config)
    project, survey = found.project, found.project.survey
    pairs = pairs_plan(project, config, profile)
    papers = papers_plan(survey, pairs, profile, args.threads)
    plans = {"planned": found.plans[0], "Kronecker pairs alone": pairs, "these in the papers' lowering": papers}
    timing = TIMING if args.seconds is None else replace(TIMING, seconds=args.seconds)
    setting = Setting(profile.backend, args.threads, project.input)
    rehearsal = Rehearsal(project.module, profile.opset, setting, timing, silent)
    speedups = rehearsal.against(dense_plan(survey, profile), list(plans.values()))
    print(heading)
    for (name, plan), speedup in zip(plans.items(), speedups, strict=True):
        print(line(row(name, network_reduction(survey, plan, "macs"), speedup)))
    (gain,) = rehearsal.against(papers, [pairs])
    print(f"\nThe pairs as planned over the papers' lowering of them: {speedup_text(gain)}, {gain.verdict}")


if __name__ == "__main__":
    main()
