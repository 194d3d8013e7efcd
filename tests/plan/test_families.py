"""Families: structures that their methods make, that the scan knows, and that cost less than dense."""

import math
from dataclasses import replace

import numpy as np
import pytest

from kronexport.backends.profile import load_target
from kronexport.factorize.decompose import check_method
from kronexport.factorize.network import check_group
from kronexport.factorize.refine import MOST_RANKS
from kronexport.factorize.scan import ErrorScan
from kronexport.lower.forms import least_macs
from kronexport.plan.families import FAMILIES
from kronexport.records import Site, Structure
from tests.plan.samples import site

MULTIPLE = load_target("cpu").rank_multiple
SITES = [site("plain", 24, 20), site("stem", 16, 3), site("point", 32, 24, kernel=1), site("grouped", 24, 24, group=4)]


@pytest.mark.parametrize("place", SITES, ids=lambda place: place.name)
@pytest.mark.parametrize("method", FAMILIES)
def test_each_structure_is_legal_known_to_the_scan_and_leaner_than_dense(method: str, place: Site) -> None:
    scan = ErrorScan({place.name: np.random.default_rng(0).standard_normal(place.weight_shape)})
    structures = list(FAMILIES[method](place, MULTIPLE))
    assert len(structures) == len(set(structures))
    for structure in structures:
        assert structure.method == method
        assert structure.weight_shape == place.weight_shape
        check_method(structure)
        check_group(structure, place.geometry.group, place.name)
        assert structure.params < math.prod(place.weight_shape)
        assert least_macs(structure, place.geometry, place.input_size) < place.macs
        table = scan.errors(place.name, _unit(structure))
        assert 0 <= table[tuple(rank - 1 for rank in structure.ranks)] <= 1


def test_no_rank_is_offered_that_least_squares_cannot_find() -> None:
    """A large layer could be leaner than dense at more."""
    ranks = [structure.ranks[0] for structure in FAMILIES["cp"](site("large", 512, 512, kernel=7), MULTIPLE)]
    assert MOST_RANKS / 2 < max(ranks) <= MOST_RANKS


@pytest.mark.parametrize("method", ["cp", "tucker2"])
def test_three_factors_need_a_kernel_and_channels(method: str) -> None:
    """A 1x1 conv and a depthwise one have none of their structures; a grouped one has."""
    have = {place.name: bool(list(FAMILIES[method](place, MULTIPLE))) for place in SITES}
    assert have == {"plain": True, "stem": True, "point": False, "grouped": True}
    assert not list(FAMILIES[method](site("depthwise", 16, 16, group=16), MULTIPLE))


def test_high_ranks_are_what_the_target_likes() -> None:
    """All low multiples are there, and from eight on nothing else; below, one would be too long a step."""
    ranks = [structure.ranks[0] for structure in FAMILIES["cp"](site("wide", 128, 128), MULTIPLE)]
    assert {times * MULTIPLE for times in range(1, 9)} < set(ranks)
    assert {1, 2, 3, MULTIPLE + 2} < set(ranks)
    assert all(rank % MULTIPLE == 0 for rank in ranks if rank >= 8 * MULTIPLE)
    assert max(ranks) > 400


def test_both_ranks_of_tucker2_are_the_same_part_of_their_channels() -> None:
    """To rounding; and both multiples where one is."""
    for structure in FAMILIES["tucker2"](site("s", 128, 64), MULTIPLE):
        filters, channels = structure.ranks
        if filters % MULTIPLE == 0 and filters >= 2 * MULTIPLE:
            assert channels % MULTIPLE == 0
            assert abs(filters / 2 - channels) <= MULTIPLE / 2
        else:
            assert abs(filters / 2 - channels) <= 0.5


def _unit(structure: Structure) -> Structure:
    return replace(structure, ranks=tuple(1 for _ in structure.ranks))
