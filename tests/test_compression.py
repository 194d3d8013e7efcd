"""compress: a model in, a smaller model out."""

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import kronexport
from kronexport.compression import Compressed, compress
from kronexport.errors import UserInputError
from kronexport.export.module import KroneckerConv2d
from kronexport.export.replace import kronecker_modules
from kronexport.records import Structure
from kronexport.ship.report_json import read_report_json
from kronexport.survey.model import load_model
from kronexport.verify.outputs import run_onnx
from tests.conftest import Built
from tests.small_network import SHAPE, images, small


def weight(model: nn.Module, site: str) -> NDArray[np.float32]:
    return model.get_parameter(f"{site}.weight").detach().numpy()


def distance(model: nn.Module, compressed: Compressed) -> float:
    """Relative L2 between the outputs on images that nothing was fitted to."""
    x = torch.from_numpy(images(80)[64:])
    with torch.no_grad():
        wanted = model(x)
        return float((compressed.model(x) - wanted).norm() / wanted.norm())


# --- what it gives ------------------------------------------------------------------------------------------------


def test_goals_are_met_by_what_the_model_holds() -> None:
    """Counted in the modules, not taken from the plan."""
    model = small()
    compressed = compress(model, SHAPE, goal=("params<=0.6", "macs<=0.7"))
    assert compressed.params == sum(parameter.numel() for parameter in compressed.model.parameters())
    assert compressed.dense_params == sum(parameter.numel() for parameter in model.parameters())
    assert compressed.dense_macs == 24 * 24 * 8 * 27 + 12 * 12 * 12 * 72 + 60
    assert compressed.params <= 0.6 * compressed.dense_params
    assert compressed.macs <= 0.7 * compressed.dense_macs
    kept = compressed.dense_macs - 24 * 24 * 8 * 27 - 12 * 12 * 12 * 72
    assert compressed.macs == kept + sum(site.macs for site in compressed.sites)


def test_without_a_goal_half_the_macs_are_asked_for() -> None:
    """As by ``kronexport build``."""
    compressed = compress(small(), SHAPE)
    assert compressed.macs <= 0.5 * compressed.dense_macs


def test_each_site_is_told() -> None:
    """In order of execution, with the error of the factors that the model holds; the others with the reason."""
    model = small()
    compressed = compress(model, SHAPE, goal=("params<=0.6",), exclude=("0",))
    (site,) = compressed.sites
    module = compressed.model.get_submodule("3")
    assert isinstance(module, KroneckerConv2d)
    assert (site.site, site.structure) == ("3", module.structure)
    assert site.params == sum(parameter.numel() for parameter in module.parameters())
    original = weight(model, "3")
    error = np.linalg.norm(original - module.network().to_dense()) / np.linalg.norm(original)
    assert site.rel_error == pytest.approx(float(error), rel=1e-5)
    assert [(entry.site, entry.reason) for entry in compressed.skipped] == [("0", "excluded by --exclude 0")]


def test_calibration_brings_the_outputs_closer() -> None:
    """On images that it was not given; any form of the same images gives the same factors."""
    model, given = small(), images(64)
    alone = compress(model, SHAPE, goal=("params<=0.6",))
    fitted = compress(model, SHAPE, goal=("params<=0.6",), calibration=given)
    assert distance(model, fitted) < 0.7 * distance(model, alone)
    forms: list[Any] = [torch.from_numpy(given), given.astype(np.float64), [(given[:40], 1), (given[40:], 2)]]
    for form in forms:
        again = compress(model, SHAPE, goal=("params<=0.6",), calibration=form)
        assert distance(model, again) == distance(model, fitted)


@pytest.mark.parametrize(
    "example", [np.zeros(SHAPE), torch.zeros(SHAPE), torch.Size(SHAPE), [np.int64(size) for size in SHAPE]]
)
def test_the_input_may_be_an_example(example: Any) -> None:
    assert compress(small(), example).macs == compress(small(), SHAPE).macs


def test_a_model_that_normalizes_its_input_in_place_is_fitted_as_one_that_does_not() -> None:
    class Normalized(nn.Module):
        def __init__(self, *, in_place: bool) -> None:
            super().__init__()
            self.body, self.in_place = small(), in_place

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            normal = x.sub_(0.5).mul_(3) if self.in_place else (x - 0.5) * 3
            output: torch.Tensor = self.body(normal)
            return output

    given = images(16)
    before = given.copy()
    found = [
        compress(Normalized(in_place=in_place), SHAPE, goal=("params<=0.5",), calibration=given)
        for in_place in (False, True)
    ]
    np.testing.assert_array_equal(given, before)
    plain, in_place = (one.model.state_dict() for one in found)
    for name, tensor in plain.items():
        torch.testing.assert_close(in_place[name], tensor, rtol=1e-5, atol=1e-7)


def test_a_model_with_weights_that_a_hook_computes_is_compressed() -> None:
    """Torch copies no tensor that it computed."""
    model = small()
    torch.nn.utils.weight_norm(model.get_submodule("3"))
    compressed = compress(model, SHAPE, goal=("macs<=0.8",))
    assert {skipped.site for skipped in compressed.skipped} >= {"3"}
    torch.testing.assert_close(compressed.model.get_parameter("3.weight_v"), model.get_parameter("3.weight_v"))


def test_macs_are_those_of_the_given_batch() -> None:
    one, two = (compress(small(), (batch, *SHAPE[1:]), goal=("macs<=0.5",)) for batch in (1, 2))
    assert two.dense_macs == 2 * one.dense_macs
    assert two.macs == 2 * one.macs


def test_the_users_model_stays_as_it_is() -> None:
    model = small().train()
    before = copy.deepcopy(model.state_dict())
    compressed = compress(model, SHAPE, calibration=images(4))
    with torch.no_grad():
        for parameter in compressed.model.parameters():
            parameter.zero_()
    assert model.training
    assert not kronecker_modules(model)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


def test_it_trains_and_is_told_of() -> None:
    """Every factor gets a gradient; progress names the stages."""
    told = []
    compressed = compress(small(), SHAPE, calibration=images(4), progress=lambda *step: told.append(step))
    compressed.model(torch.randn(2, *SHAPE[1:])).square().sum().backward()
    assert all(parameter.grad is not None for parameter in compressed.model.parameters())
    assert {stage for stage, _, _ in told} == {"scan", "plan", "factorize"}


def test_what_is_saved_is_loaded_bit_by_bit(tmp_path: Path) -> None:
    """Through the names that users have."""
    model = small()
    compressed = kronexport.compress(model, SHAPE, calibration=images(8))
    kronexport.save_compressed(compressed.model, tmp_path / "factors.safetensors")
    again = kronexport.load_compressed(model, tmp_path / "factors.safetensors")
    x = torch.from_numpy(images(3))
    with torch.no_grad():
        assert torch.equal(again(x), compressed.model(x))


@pytest.mark.filterwarnings("ignore:Using padding:UserWarning")  # torch notes that it copies the input
def test_the_factors_of_a_build_are_loaded(built: Built, network: Path) -> None:
    """Into the user's model, which then computes what the build exported."""
    folder = built.folder / "intermediates" / "x86-onnxruntime"
    model = load_model(f"{network}:net").module
    loaded = kronexport.load_compressed(model, folder / "factors.safetensors")
    x = images(2, size=64)[:1]
    (exported,) = run_onnx(folder / "portable.onnx", x).values()
    with torch.no_grad():
        computed = loaded(torch.from_numpy(x)).numpy()
    assert np.linalg.norm(computed - exported) <= 1e-5 * np.linalg.norm(exported)


@pytest.mark.filterwarnings("ignore:Using padding:UserWarning")
def test_it_gives_what_a_build_gives(built: Built, network: Path) -> None:
    """With its structures the same factors, and no more MACs than the form that ships."""
    model = load_model(f"{network}:net").module
    stored = kronexport.load_compressed(
        model, built.folder / "intermediates" / "x86-onnxruntime" / "factors.safetensors"
    )
    expected = kronecker_modules(stored)
    planned = {site: module.structure for site, module in expected.items()}  # by measured time, which compress lacks
    compressed = compress(model, (1, 3, 64, 64), structures=planned)
    found = kronecker_modules(compressed.model)
    assert {site: module.structure for site, module in found.items()} == planned
    for site, module in found.items():
        np.testing.assert_array_equal(module.network().to_dense(), expected[site].network().to_dense())
    report = read_report_json(built.folder / "report.json").targets["x86-onnxruntime"]
    assert (compressed.dense_params, compressed.params) == (report.dense.params, report.compressed.params)
    assert compressed.dense_macs == report.dense.macs
    assert compressed.macs <= report.compressed.macs


def test_no_runtime_and_no_exporter_is_loaded() -> None:
    """It works where they are not installed."""
    code = (
        "import sys, torch, kronexport; torch.manual_seed(0); model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3))\n"
        "kronexport.compress(model, (1, 3, 9, 9)); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "torch" in loaded
    assert not loaded & {"onnxruntime", "openvino", "onnxscript", "onnxsim"}


# --- structures of the user's own ---------------------------------------------------------------------------------

SEKRON = [(4, 2, 1, 1), (3, 1, 3, 3), (1, 4, 1, 1)]
GKPD = [(4, 4, 3, 1), (3, 2, 1, 3)]
METHODS: dict[str, dict[str, Any]] = {
    "gkpd": {"ranks": (4,), "sizes": GKPD},
    "sekron": {"ranks": (3, 2), "sizes": SEKRON},
    "cp": {"ranks": (10,)},
    "tucker": {"ranks": (6, 4, 3, 2)},
    "tucker2": {"ranks": (6, 4)},
    "tt": {"ranks": (6, 5, 4)},
    "tr": {"ranks": (2, 4, 2)},
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("calibration", [None, images(64)], ids=["alone", "fitted"])
def test_a_structure_of_any_method_is_used_as_given(method: str, calibration: NDArray[np.float32] | None) -> None:
    """Other sites stay dense; without images the factors are those of ``decompose``, with images no worse."""
    model = small()
    own = kronexport.decompose(weight(model, "3"), method, **METHODS[method])
    compressed = compress(model, SHAPE, structures={"3": own.structure}, calibration=calibration)
    (module,) = kronecker_modules(compressed.model).values()
    assert module.structure == own.structure
    first, second = compressed.sites
    assert (first.site, first.structure, first.rel_error) == ("0", None, 0.0)
    assert (second.structure, second.params) == (own.structure, own.structure.params)
    assert second.macs <= 12 * 12 * 12 * 72
    if calibration is None:
        np.testing.assert_array_equal(module.network().to_dense(), own.to_dense())
    else:
        alone = compress(model, SHAPE, structures={"3": own.structure})
        assert distance(model, compressed) < distance(model, alone)


def test_structures_are_fitted_in_order_of_execution() -> None:
    """Whatever order the user names them in."""
    model = small()
    first = kronexport.decompose(weight(model, "0"), "tucker2", (3, 2)).structure
    second = kronexport.decompose(weight(model, "3"), "tt", (6, 5, 4)).structure
    one, other = (
        compress(model, SHAPE, structures=dict(named), calibration=images(16))
        for named in ([("0", first), ("3", second)], [("3", second), ("0", first)])
    )
    assert distance(model, one) == distance(model, other)
    assert [site.structure for site in other.sites] == [first, second]


@pytest.mark.parametrize("calibration", [None, images(16)], ids=["alone", "fitted"])
def test_grouped_convs_and_linear_layers_take_part(calibration: NDArray[np.float32] | None) -> None:
    """Linear ones where ``include`` names them; MACs and params are counted for what they are."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, groups=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 40)
    ).eval()
    own = {
        "1": kronexport.decompose(weight(model, "1"), "tucker2", (8, 4)).structure,
        "4": kronexport.decompose(
            weight(model, "4")[:, :, None, None], "gkpd", (4,), [(40, 1, 1, 1), (1, 16, 1, 1)]
        ).structure,
    }
    compressed = compress(model, SHAPE, structures=own, include=("1", "4"), calibration=calibration)
    grouped, linear = compressed.sites
    assert (grouped.structure, linear.structure) == (own["1"], own["4"])
    assert grouped.params == own["1"].params + 16
    assert (linear.params, linear.macs) == (own["4"].params + 40, 4 * (40 + 16))
    assert compressed.params == sum(parameter.numel() for parameter in compressed.model.parameters())
    x = torch.from_numpy(images(2))
    assert compressed.model(x).shape == (2, 40)


def test_no_structure_leaves_the_model_dense() -> None:
    compressed = compress(small(), SHAPE, structures={}, calibration=images(4))
    assert compressed.params == compressed.dense_params
    assert compressed.macs == compressed.dense_macs


def test_factors_that_need_more_than_dense_are_computed_as_dense() -> None:
    model = small()
    full = kronexport.decompose(weight(model, "3"), "gkpd", (18,), GKPD).structure
    assert compress(model, SHAPE, structures={"3": full}).sites[1].macs == 12 * 12 * 12 * 72


def tucker2(filters: int, channels: int, kernel: int = 3) -> Structure:
    return kronexport.decompose(np.ones((filters, channels, kernel, kernel), np.float32), "tucker2", (1, 1)).structure


@pytest.mark.parametrize(
    ("structures", "says"),
    [
        ({"4": tucker2(12, 8)}, r"structures: '4' is no layer that can be factorized"),
        ({"1.conv": tucker2(12, 8)}, r"'1.conv' is no layer that can be factorized"),
        ({"3": tucker2(12, 9)}, r"structures: 3: .* makes a weight \(12, 9, 3, 3\), expected \(12, 8, 3, 3\)"),
        ({"3": "tucker2"}, r"structures: 3: is a str, expected a Structure: kronexport\.decompose"),
    ],
)
def test_structures_that_fit_no_site(structures: dict[str, Any], says: str) -> None:
    with pytest.raises(UserInputError, match=says):
        compress(small(), SHAPE, structures=structures)


def test_a_structure_for_a_skipped_conv_says_why_it_is_skipped() -> None:
    with pytest.raises(UserInputError, match=r"'3' is no layer that can be factorized; it excluded by --exclude 3"):
        compress(small(), SHAPE, structures={"3": tucker2(12, 8)}, exclude=("3",))


def test_goals_and_structures_do_not_go_together() -> None:
    with pytest.raises(UserInputError, match="got goal and structures"):
        compress(small(), SHAPE, structures={"3": tucker2(12, 8)}, goal=("params<=0.5",))


# --- arguments that are wrong -------------------------------------------------------------------------------------


@pytest.mark.parametrize("goal", ["latency<=0.5", "memory<=0.5", "size<=0.5", "accuracy_drop<=1"])
def test_a_goal_that_needs_an_engine_is_refused(goal: str) -> None:
    with pytest.raises(UserInputError, match=r"needs an engine.*or use kronexport\.build"):
        compress(small(), SHAPE, goal=(goal,))


@pytest.mark.parametrize("name", ["goal", "include", "exclude"])
def test_a_text_where_a_sequence_is_expected(name: str) -> None:
    """It would be taken letter by letter."""
    options: dict[str, Any] = {name: "macs<=0.5"}
    with pytest.raises(UserInputError, match=rf"compress: {name} is the text 'macs<=0.5'; expected a sequence"):
        compress(small(), SHAPE, **options)


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ((3, 24, 24), r"--input \(3, 24, 24\) has 3 sizes; expected four"),
        ((1, 3, 0, 24), "has a size below 1"),
        ("1x3x24x24", r"--input '1x3x24x24': expected a shape \(N, C, H, W\)"),
        (224, "--input 224: expected a shape"),
        ((1, 4, 24, 24), "--input 1x4x24x24: the model refuses it"),
        ((1, 3, 24, 2.5), "expected a shape"),
    ],
)
def test_an_input_that_is_none(shape: Any, says: str) -> None:
    with pytest.raises(UserInputError, match=says):
        compress(small(), shape)


def test_an_unknown_target() -> None:
    with pytest.raises(UserInputError, match="target 'phone': no such target"):
        compress(small(), SHAPE, target="phone")
