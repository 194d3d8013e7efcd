"""Whether permuting channels pays: structures whose error depends on the order of channels against all others.

    python -m benchmarks.channel_order --weights resnet32.th --resnet50 resnet50_imagenet.npz

A structure in which one factor owns all filters and one all channels has the same error in every order (invariant).
The others (dependent) are taken in the checkpoint's order, and with the orders permuted that neighbours can absorb:
what lies between the two convs of a ResNet-32 block, and both sides of the 3x3 conv of a ResNet-50 bottleneck. Each
structure has the highest rank within 1 / factor of the layer's params and of its MACs.
"""

import argparse
import math
import platform
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from benchmarks.channel_permutation import free_modes, permuted, search, truncation_errors
from benchmarks.planning import GKPD
from kronexport.backends.profile import load_target
from kronexport.export.replace import site_weights
from kronexport.factorize.gkpd import divisor_structures, max_rank
from kronexport.factorize.scan import ErrorScan
from kronexport.factorize.spectra import Spectrum
from kronexport.lower.forms import least_macs
from kronexport.plan.candidates import Candidate, all_candidates
from kronexport.plan.choose import solve
from kronexport.plan.cost_model import roofline_model
from kronexport.records import InputSpec, Site, Structure, Survey, silent
from kronexport.survey.sites import survey
from kronexport.survey.weights import load_weights
from sample_models.cifar_resnet import CifarResNet
from sample_models.resnet import resnet50

FACTORS = (1.6, 2.2, 3.0)
SHORTLIST = 6
"""Dependent structures that are permuted for each layer and factor: the best in the given order."""
STARTS = 2
TARGET = "cpu"
RESNET50_SITES = ("layer1.0.conv2", "layer1.2.conv2", "layer2.1.conv2")
LAYER_HEADER = (
    "| layer | factor | invariant | dependent, as given | permuted | best dependent structure |\n"
    "|---|---|---|---|---|---|"
)
NETWORK_HEADER = (
    "| factor | dependent / invariant, as given | permuted | layers where dependent wins, as given | permuted "
    "| planner's sum of cubed errors, as given | permuted | sites planned dependent, as given | permuted |\n"
    "|---|---|---|---|---|---|---|---|---|"
)

Modes = Collection[str]
"""Those of ``filters`` and ``channels`` that neighbours of a site can absorb an order of."""


class PermutedScan(ErrorScan):
    """The error of every structure in the best order met, never above that in the given order.

    Args:
        weights: [F, C, kh, kw] of each site by name.
        sites: those to permute.
        modes: of each site.
    """

    def __init__(self, weights: Mapping[str, NDArray[Any]], sites: Sequence[Site], modes: Mapping[str, Modes]) -> None:
        super().__init__(weights)
        self._permuted: dict[tuple[str, Structure], Spectrum] = {}
        given = ErrorScan(weights)
        for site in sites:
            for unit, rank in shortlist(site, given, modes[site.name]):
                structure = replace(unit, ranks=(rank,))
                found = search(weights[site.name], structure, _movable(unit, modes[site.name]), STARTS, seed=0)
                errors = truncation_errors(permuted(weights[site.name], found), unit)
                self._permuted[site.name, unit] = np.minimum(self.errors(site.name, unit), errors)

    def errors(self, site: str, unit: Structure) -> Spectrum:
        key = site, unit
        return self._permuted[key] if key in self._permuted else super().errors(site, unit)


def _movable(unit: Structure, modes: Modes) -> tuple[str, ...]:
    return tuple(mode for mode in free_modes(unit) if mode in modes)


def shortlist(site: Site, given: ErrorScan, modes: Modes) -> list[tuple[Structure, int]]:
    """The best dependent structures for each factor that ``modes`` can permute, of rank 1, with the rank that counts.

    Of a structure and its mirror (factors exchanged) only the better is listed: with the order free they are one.
    """
    found: dict[tuple[Structure, int], None] = {}
    for factor in FACTORS:
        options = [option for option in within(site, factor) if _movable(option[0], modes)]
        options.sort(key=lambda option: float(given.errors(site.name, option[0])[option[1] - 1]))
        distinct: dict[frozenset[tuple[int, ...]], tuple[Structure, int]] = {}
        for unit, rank in options:
            distinct.setdefault(frozenset(shape.size for shape in unit.factors), (unit, rank))
        found |= dict.fromkeys(list(distinct.values())[:SHORTLIST])
    return list(found)


def within(site: Site, factor: float) -> Iterator[tuple[Structure, int]]:
    """Every structure, of rank 1, and its highest rank within 1 / ``factor`` of the site's params and of its MACs."""
    for unit in divisor_structures(site.weight_shape):
        by_params, by_macs = int(site.params / factor) // unit.params, int(site.macs / factor) // _macs(unit, site)
        rank = min(max_rank(unit), by_params, by_macs)
        if rank > 0:
            yield unit, rank


def _macs(unit: Structure, site: Site) -> int:
    """MACs at rank 1 in the better order of the factors; those at rank R are R times as many."""
    return site.batch * least_macs(unit, site.geometry, site.input_size)


@dataclass(frozen=True, slots=True)
class Best:
    """||W - W^|| / ||W|| of the best structure of each kind, and the dependent one."""

    invariant: float
    dependent: float
    structure: str

    @property
    def ratio(self) -> float:
        return self.dependent / self.invariant


def best_errors(site: Site, scan: ErrorScan, factor: float) -> Best:
    """Of all structures within 1 / ``factor``."""
    invariant, dependent, structure = math.inf, math.inf, ""
    for unit, rank in within(site, factor):
        error = math.sqrt(scan.errors(site.name, unit)[rank - 1])
        if not free_modes(unit):
            invariant = min(invariant, error)
        elif error < dependent:
            dependent, structure = error, f"{unit}, rank {rank}"
    return Best(invariant, dependent, structure)


def planned(found: Survey, candidates: Sequence[Sequence[Candidate]], factor: float) -> list[Candidate]:
    """The planner's choice for params and MACs of the whole network."""
    limits = {}
    for name in ("params", "macs"):
        fixed = getattr(found, name) - sum(getattr(site, name) for site in found.sites)
        limits[name] = getattr(found, name) / factor - fixed
    return solve(candidates, limits)


def network_rows(found: Survey, scans: Sequence[ErrorScan]) -> Iterator[str]:
    """The network's table, line by line; ``scans`` are as given and permuted."""
    model = roofline_model(load_target(TARGET))
    candidates = [all_candidates(found.sites, scan, model, silent, GKPD) for scan in scans]
    for factor in FACTORS:
        bests = [[best_errors(site, scan, factor) for site in found.sites] for scan in scans]
        plans = [planned(found, options, factor) for options in candidates]
        columns = [
            [f"{math.exp(np.mean([math.log(best.ratio) for best in row])):.3f}" for row in bests],
            [f"{sum(best.ratio < 1 for best in row)} of {len(row)}" for row in bests],
            [f"{sum(pick.cubed_error for pick in plan):.4f}" for plan in plans],
            [
                str(sum(pick.structure is not None and free_modes(pick.structure) != () for pick in plan))
                for plan in plans
            ],
        ]
        yield f"| {factor} | {' | '.join(cell for pair in columns for cell in pair)} |"


def layer_row(site: Site, scans: Sequence[ErrorScan], factor: float) -> str:
    """One line of the table of layers; ``scans`` are as given and permuted."""
    given, moved = (best_errors(site, scan, factor) for scan in scans)
    figures = f"{moved.invariant:.3f} | {given.dependent:.3f} | {moved.dependent:.3f}"
    return f"| {site.name} {site.in_channels} to {site.out_channels} | {factor} | {figures} | {moved.structure} |"


def _inside_block(site: Site) -> Modes:
    """What a ResNet-32 block's neighbours absorb: all else flows along shortcuts."""
    return {"conv1": ("filters",), "conv2": ("channels",)}[site.name.rpartition(".")[2]] if "." in site.name else ()


def _scans(model: nn.Module, sites: Sequence[Site], modes: Mapping[str, Modes]) -> tuple[ErrorScan, ErrorScan]:
    weights = site_weights(model, tuple(site.name for site in sites))
    return ErrorScan(weights), PermutedScan(weights, sites, modes)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="state dict of a CIFAR ResNet-32")
    parser.add_argument("--resnet50", type=Path, required=True, help="weights of an ImageNet ResNet-50")
    args = parser.parse_args()
    print(f"{datetime.now(UTC):%Y-%m-%d}; Python {platform.python_version()}, numpy {version('numpy')}\n", flush=True)
    narrow = CifarResNet(32).eval()
    load_weights(narrow, args.weights)
    found = survey(narrow, InputSpec("input", (1, 3, 32, 32)))
    scans = _scans(narrow, found.sites, {site.name: _inside_block(site) for site in found.sites})
    print(NETWORK_HEADER, flush=True)
    for row in network_rows(found, scans):
        print(row, flush=True)
    wide = resnet50().eval()
    load_weights(wide, args.resnet50)
    sites = [site for site in survey(wide, InputSpec("input", (1, 3, 224, 224))).sites if site.name in RESNET50_SITES]
    print(f"\n{LAYER_HEADER}", flush=True)
    for site in sites:
        scans = _scans(wide, [site], {site.name: ("filters", "channels")})
        for factor in FACTORS:
            print(layer_row(site, scans, factor), flush=True)


if __name__ == "__main__":
    main()
