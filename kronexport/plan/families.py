"""The structures that a site may become, method by method, each at a ladder of ranks."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

from kronexport.factorize.cp_errors import cp_units
from kronexport.factorize.decompose import METHODS
from kronexport.factorize.network import owns_groups
from kronexport.factorize.refine import MOST_RANKS
from kronexport.factorize.spectra import scanned_structures
from kronexport.factorize.tucker import tucker_max_ranks
from kronexport.factorize.tucker_errors import tucker2_units
from kronexport.lower.forms import least_macs
from kronexport.records import Site, Structure

Family = Callable[[Site, int], Iterator[Structure]]
"""Structures for a site that need fewer params and MACs than dense; the scan has their errors.

The other argument is the multiple of channels that the target computes in.
"""

STEPS = 8
"""A rank is followed by one that is a part of this higher; ranks below it are all tried."""


def kronecker_pairs(site: Site, _multiple: int) -> Iterator[Structure]:
    """Every GKPD structure that is scanned."""
    for unit in scanned_structures(site.weight_shape):
        if owns_groups(unit, site.geometry.group):
            yield from (replace(unit, ranks=(rank,)) for rank in _ladder(_most(unit, site)))


def cp_chains(site: Site, multiple: int) -> Iterator[Structure]:
    """CP with the kernel as one mode: a pointwise conv, a depthwise k x k one, a pointwise one."""
    for unit in cp_units(site.weight_shape):
        for rank in _preferred(_ladder(min(MOST_RANKS, _most(unit, site))), multiple):
            yield replace(unit, ranks=(rank,))


def tucker2_chains(site: Site, multiple: int) -> Iterator[Structure]:
    """Tucker-2: a pointwise conv, a k x k one, a pointwise one, of both ranks the same part of their channels."""
    filters, channels, *_ = site.weight_shape
    for unit in tucker2_units(site.weight_shape):
        for rank in _preferred(_ladder(filters), multiple):
            structure = replace(unit, ranks=(rank, _alongside(rank, filters, channels, multiple)))
            most = tucker_max_ranks(structure).values()
            if all(rank <= limit for rank, limit in zip(structure.ranks, most, strict=True)) and _saves(
                structure, site
            ):
                yield structure


FAMILIES: dict[str, Family] = {"gkpd": kronecker_pairs, "cp": cp_chains, "tucker2": tucker2_chains}
"""By method."""


def _most(unit: Structure, site: Site) -> int:
    """The highest rank of use at which params and MACs are below dense's; both are those of ``unit`` times the rank."""
    macs = site.batch * least_macs(unit, site.geometry, site.input_size)
    weight = math.prod(unit.weight_shape)
    return min(*METHODS[unit.method].max_ranks(unit).values(), (weight - 1) // unit.params, (site.macs - 1) // macs)


def _saves(structure: Structure, site: Site) -> bool:
    """Whether both params and MACs are below dense's."""
    macs = site.batch * least_macs(structure, site.geometry, site.input_size)
    return structure.params < math.prod(structure.weight_shape) and macs < site.macs


def _ladder(most: int) -> list[int]:
    """All small ranks, then steps of an eighth."""
    ranks, rank = [], 1
    while rank <= most:
        ranks.append(rank)
        rank += max(1, rank // STEPS)
    return ranks


def _preferred(ranks: list[int], multiple: int) -> list[int]:
    """The ranks with all low multiples among them, and multiples alone where a step of the ladder is as long as one."""
    if not ranks:
        return []
    fine = STEPS * multiple
    multiples = range(multiple, min(fine, ranks[-1] + 1), multiple)
    return sorted({*multiples, *(rank if rank < fine else rank // multiple * multiple for rank in ranks)})


def _alongside(rank: int, filters: int, channels: int, multiple: int) -> int:
    """The rank that is as large a part of the channels as ``rank`` is of the filters; a multiple if that is one."""
    exact = rank * channels / filters
    step = multiple if rank % multiple == 0 and exact >= multiple else 1
    return min(channels, max(1, round(exact / step) * step))
