"""What a form is bound by, from its sizes and the machine's best."""

import pytest

from benchmarks.layers import conv_layer, conv_site
from benchmarks.little_gain import SHARES, Machine, bounds_of, bytes_moved, operators, picked, row
from kronexport.backends.profile import load_target
from kronexport.export.replace import site_weights
from kronexport.factorize.scan import ErrorScan
from kronexport.measure.micro import Trial
from kronexport.measure.work import ConvWork, Work
from kronexport.plan.candidates import all_candidates
from kronexport.plan.cost_model import roofline_model
from kronexport.records import silent

WORK = Work((ConvWork(1, 1, 10, 20, 9, 100, 100), ConvWork(1, 1, 20, 5, 1, 100, 100)), transposes=(500,))
"""A 3x3 conv and a 1x1 conv with a Transpose."""


def test_bounds_are_those_of_macs_bytes_and_operators() -> None:
    macs, elements = 180_000 + 10_000, (1000 + 2000 + 1800) + (2000 + 500 + 100) + 1000
    assert (bytes_moved(WORK), operators(WORK)) == (4 * elements, 3)
    bounds = bounds_of(WORK, Machine(macs=1e6, bytes=1e6, start=1e-3))
    assert (bounds.computing, bounds.moving, bounds.starting) == pytest.approx((macs / 1e6, 4 * elements / 1e6, 3e-3))
    assert bounds.tightest == "computing"
    assert bounds_of(WORK, Machine(1e12, 1e6, 0.0)).tightest == "moving"
    assert bounds_of(WORK, Machine(1e12, 1e12, 1.0)).tightest == "starting"


def test_structures_of_every_method_are_looked_at_and_told_beside_dense() -> None:
    """Within the shares; a line has the ratios to dense."""
    layer = conv_layer(16)
    site = conv_site(layer, 16, 14)
    scan = ErrorScan(site_weights(layer, (site.name,)))
    (options,) = all_candidates([site], scan, roofline_model(load_target("cpu")), silent)
    chosen = picked(site, options)
    assert {option.structure.method for option in chosen if option.structure} == {"gkpd", "cp", "tucker2"}
    assert all(option.macs <= max(SHARES) * site.macs for option in chosen)
    dense = Trial.left_dense(site)
    cells = row(dense, 2e-3, dense, 2e-3, Machine(1e9, 1e9, 1e-6))
    assert (cells[0], cells[2], cells[6]) == ("dense", "1.00x", "1.00x")
