import numpy as np
import pytest

from benchmarks.cost_model import COLUMNS, DRAWN, STRUCTURES, costs_of, layers, row, spread
from kronexport.backends.profile import load_target
from kronexport.lower.forms import DENSE
from kronexport.measure.costs import FormTimes
from kronexport.plan.cost_model import Agreement, Validation
from kronexport.records import Site


@pytest.fixture(scope="module")
def sites() -> list[Site]:
    return layers()


def test_each_kind_of_conv_is_there_once(sites: list[Site]) -> None:
    """Eleven in ResNet-18; every structure of the list fits one of them."""
    assert len(sites) == 11
    assert {structure.weight_shape for structure in STRUCTURES} <= {site.weight_shape for site in sites}


def test_a_layer_has_dense_and_forms_that_need_fewer_macs(sites: list[Site]) -> None:
    """The same in every run."""
    site = next(site for site in sites if site.weight_shape == (64, 64, 3, 3))
    dense, *others = (trial.form for trial in spread(site, np.random.default_rng(0)))
    assert dense.name == DENSE
    assert all(form.macs < dense.macs for form in others)
    assert len(others) == len(set(others)) >= DRAWN
    assert {form.structure for form in others} >= {s for s in STRUCTURES if s.weight_shape == site.weight_shape}
    assert [trial.form for trial in spread(site, np.random.default_rng(0))] == [dense, *others]


def test_what_was_set_aside_is_left_out(sites: list[Site]) -> None:
    trials = [spread(site, np.random.default_rng(0))[:3] for site in sites[:2]]
    known = dict.fromkeys(trials[0] + trials[1][:2], 0.001)
    costs = costs_of(trials, FormTimes(known, {trials[1][2]: "not implemented"}))
    assert [cost.layer for cost in costs] == ["0"] * 3 + ["1"] * 2


def test_a_row_has_a_cell_for_each_column() -> None:
    found = Validation(150, 11, Agreement(0.9, 0.95), Agreement(None, 0.8))
    cells = row(load_target("cpu"), found)
    assert cells == ["x86-onnxruntime", "11", "150", "0.900", "0.950", "", "0.800"]
    assert len(cells) == len(COLUMNS)
