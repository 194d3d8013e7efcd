"""How well the cost model ranks forms of layers that it has not seen, beside the bare roofline.

    python -m benchmarks.cost_model [--target cpu] [--target openvino]

Times forms of ResNet-18's convs with one thread: structures whose forms differed most when they were first looked at,
and a seeded draw of others. Times are kept in the cache (XDG_CACHE_HOME or KRONEXPORT_CACHE sets the folder), so a
second run measures nothing. For each layer the model is fitted to all other layers, and predicts that one.
"""

import argparse
from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.forms import CASES
from benchmarks.table import heading, line
from kronexport.backends.profile import TargetProfile, load_target
from kronexport.lower.forms import Form, dense_form, generate_forms
from kronexport.measure.costs import FormTimes, measure_forms
from kronexport.measure.micro import Trial
from kronexport.measure.store import MeasurementStore
from kronexport.measure.work import MeasuredCost, work_of
from kronexport.plan.cost_model import Agreement, Validation, validate
from kronexport.plan.families import FAMILIES
from kronexport.records import InputSpec, Site, Structure, silent
from kronexport.survey.sites import survey
from sample_models.registry import SAMPLES

SAMPLE = "resnet18"
THREADS = 1
DRAWN = 10
"""Forms drawn a layer, each of another structure."""
DRAWS = 200
"""Most draws for them: small layers have few forms with fewer MACs than dense."""
PLAIN_FORMS = 4
"""Forms of each structure below: grouped and folded, in both orders."""

STRUCTURES = [one.structure for one in CASES]
"""Of ResNet-18's 3x3 convs of 64, 128, 256 and 512 channels."""

COLUMNS = "target", "layers", "forms", "within a layer", "of all", "roofline within", "roofline of all"


def layers() -> list[Site]:
    """The convs of ResNet-18, each kind once."""
    sample = SAMPLES[SAMPLE]
    found = survey(sample.factory(), InputSpec("input", sample.input_shape)).sites
    return list({(site.weight_shape, site.geometry, site.input_size): site for site in found}.values())


def spread(site: Site, generator: np.random.Generator) -> list[Trial]:
    """Dense first, then the forms to time; none of them needs more MACs than dense."""
    forms: dict[Form, None] = dict.fromkeys(
        form
        for structure in STRUCTURES
        if structure.weight_shape == site.weight_shape and site.geometry.stride == (1, 1)
        for form in _leaner(structure, site)[:PLAIN_FORMS]
    )
    forms |= dict.fromkeys(_drawn(site, generator))
    dense = dense_form(site.weight_shape, site.geometry, site.input_size)
    return [Trial(form, site.batch, has_bias=True, activation=site.activation) for form in (dense, *forms)]


def costs_of(trials: Sequence[Sequence[Trial]], found: FormTimes) -> list[MeasuredCost]:
    """The times of each layer's trials, those that were set aside left out."""
    return [
        MeasuredCost(str(index), work_of(trial.form, trial.batch), found.seconds[trial])
        for index, layer in enumerate(trials)
        for trial in layer
        if trial in found.seconds
    ]


def row(profile: TargetProfile, found: Validation) -> list[str]:
    """The target's line of the table."""
    return [profile.name, str(found.layers), str(found.measurements), *_cells(found.fitted), *_cells(found.roofline)]


def main() -> None:
    """Print the table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", action="append", help="target or alias; default: cpu and openvino")
    args = parser.parse_args()
    generator = np.random.default_rng(0)
    trials = [spread(site, generator) for site in layers()]
    print(heading(f"forms of {SAMPLE}'s convs, {THREADS} thread of the runtime", COLUMNS))
    for profile in map(load_target, args.target or ("cpu", "openvino")):
        with MeasurementStore() as store:
            wanted = [trial for layer in trials for trial in layer]
            found = validate(profile, costs_of(trials, measure_forms(wanted, profile, THREADS, store, progress=silent)))
        if found is None:
            raise SystemExit(f"{profile.name}: fewer than two layers could be timed")
        print(line(row(profile, found)), flush=True)


def _drawn(site: Site, generator: np.random.Generator) -> Iterator[Form]:
    """One form each of structures drawn from those that a plan chooses among, each method alike."""
    families = [structures for family in FAMILIES.values() if (structures := list(family(site, 1)))]
    found = 0
    for _ in range(DRAWS if families else 0):
        structures = families[generator.integers(len(families))]
        forms = _leaner(structures[generator.integers(len(structures))], site)
        if forms:
            found += 1
            yield forms[generator.integers(len(forms))]
        if found == DRAWN:
            return


def _leaner(structure: Structure, site: Site) -> list[Form]:
    _, *forms = generate_forms(structure, site.geometry, site.input_size)
    return [form for form in forms if form.macs * site.batch < site.macs]


def _cells(found: Agreement) -> tuple[str, str]:
    return "" if found.within is None else f"{found.within:.3f}", f"{found.overall:.3f}"


if __name__ == "__main__":
    main()
