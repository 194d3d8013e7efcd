"""What the lowering is worth in a whole network: the planned one beside the same factors run as the papers run them.

    python -m benchmarks.papers_lowering --target cpu --threads 1 [--model sample:resnet18] [--goal "macs<=0.25"]

The papers' forward puts all axes that a step keeps into the batch, with permutes between (forms ``folded``); each
layer gets the faster of both orders. Dense, planned and the papers' are timed in one process, interleaved.
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace

from benchmarks.planning import network_reduction
from benchmarks.table import line
from benchmarks.timed import build_config, measured_heading, speedup_text, timing_parser
from kronexport.backends.profile import TargetProfile, load_target
from kronexport.lower.forms import Form, generate_forms
from kronexport.measure.costs import measure_forms
from kronexport.measure.micro import Trial
from kronexport.measure.setting import Setting, Timing
from kronexport.measure.store import MeasurementStore
from kronexport.pipeline import DryRun, dry_run
from kronexport.plan.choose import dense_plan
from kronexport.plan.rehearsal import Rehearsal
from kronexport.records import Plan, Site, SitePlan, Speedup, Survey, silent

TIMING = Timing(seconds=5.0, rounds=20, warmup_seconds=1.0)
COLUMNS = "network", "fewer MACs", "speed-up (95 %)", "realized"


def papers_forms(site: Site, choice: SitePlan) -> list[Form]:
    """The forms of a factorized site that are the papers' forward: factors in natural order, and in the reverse.

    Where a step keeps no axis folding is the same as grouping, and the form has that name.
    """
    assert choice.structure is not None  # noqa: S101  for the type checker
    forms = {form.name: form for form in generate_forms(choice.structure, site.geometry, site.input_size)}
    natural = [str(index + 1) for index in range(len(choice.structure.factors))]
    found = []
    for order in ("-".join(natural), "-".join(reversed(natural))):
        folded, same = f"folded-{order}", f"grouped-{order}"
        found.append(forms[folded if folded in forms else same])
    return found


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


def rows(found: DryRun, plans: dict[str, Plan], speedups: Sequence[Speedup]) -> list[list[str]]:
    """The table; ``speedups`` over dense in the order of ``plans``."""
    survey = found.project.survey
    return [
        row(name, network_reduction(survey, plan, "macs"), speedup)
        for (name, plan), speedup in zip(plans.items(), speedups, strict=True)
    ]


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
    """Plan, time the three networks, print the table."""
    args = _arguments()
    goals = tuple(args.goal or ("macs<=0.25",))
    profile = load_target(args.target)
    title = f"{args.model}, goals {', '.join(goals)}"
    heading = measured_heading(title, COLUMNS, profile, args.threads)
    found = dry_run(build_config(args.model, args, goal=goals))
    project, planned = found.project, found.plans[0]
    plans = {"planned": planned, "papers' lowering": papers_plan(project.survey, planned, profile, args.threads)}
    timing = TIMING if args.seconds is None else replace(TIMING, seconds=args.seconds)
    setting = Setting(profile.backend, args.threads, project.input)
    rehearsal = Rehearsal(project.module, profile.opset, setting, timing, silent)
    speedups = rehearsal.against(dense_plan(project.survey, profile), list(plans.values()))
    print(heading)
    for cells in rows(found, plans, speedups):
        print(line(cells))
    (gain,) = rehearsal.against(plans["papers' lowering"], [planned])
    print(f"\nThe planned network over the papers' lowering: {speedup_text(gain)}, {gain.verdict}")


if __name__ == "__main__":
    main()
