"""A device is the one that a target describes, or it is refused."""

from typing import Any

import pytest

from kronexport.backends.fit import check_fits
from kronexport.backends.profile import load_target
from kronexport.errors import MissingRuntimeError, UserInputError

RASPBERRY = {"machine": "aarch64", "compatible": ["raspberrypi,5-model-b", "brcm,bcm2712"], "runtime_version": "1.23.2"}
ORIN = {
    "machine": "aarch64",
    "compatible": ["nvidia,p3768-0000+p3767-0005", "nvidia,tegra234"],
    "runtime_version": "8.6.2",
}


@pytest.mark.parametrize(("target", "found"), [("rpi5", RASPBERRY), ("jetson", ORIN)])
def test_the_device_of_the_target_fits(target: str, found: dict[str, Any]) -> None:
    check_fits(load_target(target), "me@there", found)


@pytest.mark.parametrize(
    ("target", "found", "error", "message"),
    [
        (
            "rpi5",
            RASPBERRY | {"compatible": ["xunlong,orangepi-5", "rockchip,rk3588s"]},
            UserInputError,
            "rockchip,rk3588s, expected brcm,bcm2712",
        ),
        ("rk3588", RASPBERRY, UserInputError, "expected rockchip,rk3588 or rockchip,rk3588s"),
        ("rpi5", RASPBERRY | {"machine": "x86_64"}, UserInputError, "me@there is x86_64, expected aarch64"),
        (
            "jetson",
            ORIN | {"compatible": ["nvidia,tegra194"]},
            UserInputError,
            "nvidia,tegra194, expected nvidia,tegra234",
        ),
        ("jetson", ORIN | {"compatible": []}, UserInputError, "no board with a device tree, expected nvidia,tegra234"),
        (
            "jetson",
            ORIN | {"runtime_version": "10.3.0"},
            MissingRuntimeError,
            r"has tensorrt 10\.3\.0, expected 8\.6\.2",
        ),
        ("rpi5", RASPBERRY | {"runtime_version": "1.19.2"}, MissingRuntimeError, r"pip install 'onnxruntime>=1\.23'"),
    ],
)
def test_any_other_is_refused_with_what_was_expected(
    target: str, found: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        check_fits(load_target(target), "me@there", found)
