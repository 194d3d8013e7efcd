"""What is wrong or odd in a model, a budget or images: the same answer by ``compress`` and by the command."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from kronexport.compression import compress
from kronexport.errors import GoalError, UserInputError
from tests.conftest import SHORT, Ended, command
from tests.small_network import SHAPE, images, small

LAYERS = "nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1))"


def build(tmp_path: Path, body: str, *arguments: object) -> Ended:
    """``kronexport build`` of the model that the factory's ``body`` makes of ``m``."""
    source = f"import torch\nfrom torch import nn\ndef net():\n    torch.manual_seed(0)\n    m = {LAYERS}\n    {body}\n"
    (tmp_path / "net.py").write_text(f"{source}    return m\n", encoding="utf-8")
    asked = ("--input", "1x3x24x24", "--goal", "params<=0.6", "--out", tmp_path / "out", *SHORT)
    return command("build", f"{tmp_path / 'net.py'}:net", *asked, *arguments)


@pytest.mark.parametrize("goal", ["params<=0.001", "macs<=0.1k"])
def test_a_budget_that_no_structure_meets(goal: str) -> None:
    """The message says the least that is reachable."""
    with pytest.raises(
        GoalError, match=r"cannot be met: the least that the factorizable convolutions allow is [\d.e+]+ \("
    ):
        compress(small(), SHAPE, goal=(goal,))


@pytest.mark.parametrize("calibration", [None, images(16)], ids=["alone", "fitted"])
def test_prime_channel_counts(calibration: NDArray[np.float32] | None) -> None:
    """No factor splits the channels, yet kernels are split and channels go to one factor whole."""
    compressed = compress(small(13, 17), SHAPE, goal=("params<=0.6", "macs<=0.6"), calibration=calibration)
    assert compressed.params <= 0.6 * compressed.dense_params
    assert compressed.macs <= 0.6 * compressed.dense_macs
    for site in compressed.sites:
        assert site.structure is None or {factor.f for factor in site.structure.factors} <= {1, 13, 17}


def nan_at(place: tuple[int, ...]) -> NDArray[np.float32]:
    spoilt = images(4)
    spoilt[place] = np.nan
    return spoilt


@pytest.mark.parametrize(
    ("calibration", "says"),
    [
        (images(4)[:0], "is empty; expected [samples, 3, 24, 24]"),
        ([], "calibration: holds nothing"),
        (nan_at((2, 1, 3, 3)), "1 of 6912 values are NaN or infinite"),
        ([images(4), nan_at((0,))], "batch 1: 1728 of 6912 values are NaN or infinite"),
        (images(4, size=20), "has shape [4, 3, 20, 20]; expected [samples, 3, 24, 24]"),
        (images(4, channels=1), "has shape [4, 1, 24, 24]; expected [samples, 3, 24, 24]"),
        (images(4)[0], "has shape [3, 24, 24]; expected [samples, 3, 24, 24]"),
        ((images(4) * 50).astype(np.uint8), "is uint8; expected floats"),
        ("images/", "batch 0: is a str; expected an array or tensor"),
        (5, "calibration: is a int; expected batches"),
    ],
)
def test_calibration_that_is_none(calibration: Any, says: str) -> None:
    """Refused before anything is planned."""
    with pytest.raises(UserInputError) as caught:
        compress(small(), SHAPE, calibration=calibration)
    assert str(caught.value).startswith("compress: calibration")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("calibration", "says"),
    [
        (images(4)[:0], "is empty"),
        (nan_at((2, 1, 3, 3)), "1 of 6912 values are NaN"),
        (images(4, size=20), "expected [samples, 3, 24, 24]"),
    ],
)
def test_calibration_that_is_none_ends_the_command_in_2(
    tmp_path: Path, calibration: NDArray[np.float32], says: str
) -> None:
    np.save(tmp_path / "images.npy", calibration)
    ended = build(tmp_path, "", "--calibration", tmp_path / "images.npy")
    assert (ended.code, ended.out) == (2, "")
    assert says in ended.err


def test_one_calibration_image_is_enough() -> None:
    """The strongest pull to the weight is taken, and the outputs on it are no worse than by the weights alone."""
    model, one = small(), images(1)
    fitted, alone = (compress(model, SHAPE, goal=("params<=0.6",), calibration=given) for given in (one, None))
    x = torch.from_numpy(one)
    with torch.no_grad():
        near, far = (float((compressed.model(x) - model(x)).norm()) for compressed in (fitted, alone))
    assert near <= far


def test_calibration_on_which_the_network_overflows() -> None:
    with pytest.raises(UserInputError, match="NaN or infinite"):
        compress(small(), SHAPE, calibration=np.full((2, *SHAPE[1:]), 1e38, np.float32))


def modes() -> dict[str, Callable[[nn.Module], nn.Module]]:
    return {"training": nn.Module.train, "half": nn.Module.half, "double": nn.Module.double}


@pytest.mark.parametrize("mode", modes())
def test_mode_and_type_of_the_model_do_not_matter(mode: str) -> None:
    """The result is in eval mode and float32, close to that of the model in eval mode and float32."""
    model = modes()[mode](small())
    compressed = compress(model, SHAPE, calibration=images(16))
    assert not compressed.model.training
    assert {parameter.dtype for parameter in compressed.model.parameters()} == {torch.float32}
    plain = compress(small(), SHAPE, calibration=images(16))
    assert [site.structure for site in compressed.sites] == [site.structure for site in plain.sites]
    x = torch.from_numpy(images(3))
    tolerance = 1e-2 if mode == "half" else 1e-5  # float16 rounds the weights by 5e-4
    with torch.no_grad():
        torch.testing.assert_close(compressed.model(x), plain.model(x), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("body", ["m.train()", "m.half()", "m.double()"])
def test_mode_and_type_of_the_model_do_not_matter_to_the_command(tmp_path: Path, body: str) -> None:
    assert build(tmp_path, body).code == 0


def test_a_model_without_values(tmp_path: Path) -> None:
    """Device meta, which stands for any device that holds none."""
    with pytest.raises(UserInputError, match=r"0\.weight has no values \(device 'meta'\); build it on the CPU"):
        compress(small().to("meta"), SHAPE)
    ended = build(tmp_path, "m.to('meta')")
    assert ended.code == 2
    assert "has no values (device 'meta')" in ended.err


def test_a_value_that_float32_cannot_hold() -> None:
    model = small().double()
    with torch.no_grad():
        model.get_parameter("3.weight")[0, 0, 0, 0] = 1e300
    with pytest.raises(UserInputError, match=r"compress: 3\.weight has 0 NaN and 1 infinite"):
        compress(model, SHAPE)


@pytest.mark.parametrize("model", ["resnet20", None, nn.Conv2d])
def test_what_is_no_module(model: Any) -> None:
    with pytest.raises(UserInputError, match=r"compress: the model is a \w+; expected a torch\.nn\.Module"):
        compress(model, SHAPE)


@pytest.mark.parametrize("calibration", [None, images(16)], ids=["alone", "fitted"])
@pytest.mark.parametrize("zeroed", [["3"], ["0", "1", "3", "7"]], ids=["one conv", "all"])
def test_weights_that_are_all_zero(zeroed: list[str], calibration: NDArray[np.float32] | None) -> None:
    """Nothing is lost by factorizing them: their factors are zero, and no value is NaN."""
    model = small()
    with torch.no_grad():
        for name in zeroed:
            for parameter in model.get_submodule(name).parameters():
                parameter.zero_()
    compressed = compress(model, SHAPE, goal=("params<=0.6",), calibration=calibration)
    zero = compressed.sites[1]
    assert zero.structure is not None
    assert zero.rel_error == 0.0
    x = torch.from_numpy(images(2))
    with torch.no_grad():
        torch.testing.assert_close(compressed.model(x), model(x), rtol=0, atol=0)


def test_weights_that_are_all_zero_go_through_the_command(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", images(4))
    ended = build(tmp_path, "[p.data.zero_() for p in m.parameters()]", "--calibration", tmp_path / "images.npy")
    assert ended.code == 0, ended.err


def test_structures_that_are_no_dict() -> None:
    with pytest.raises(UserInputError, match="structures is a list, expected a dict"):
        compress(small(), SHAPE, structures=[("0", None)])  # type: ignore[arg-type]
