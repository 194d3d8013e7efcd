import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from kronexport.errors import UserInputError
from kronexport.records import InputSpec
from kronexport.survey import inputs
from kronexport.survey.inputs import load_calibration, load_evaluator, parse_input

SPEC = InputSpec("input", (1, 3, 4, 6))
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with sys.path put back afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def refusal(spec: str, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> str:
    with pytest.raises(UserInputError) as caught:
        load_calibration(spec, SPEC, mean, std)
    return str(caught.value)


# --- --input ----------------------------------------------------------------------------------------------------


def test_input_without_a_name() -> None:
    assert parse_input("1x3x224x192") == InputSpec("input", (1, 3, 224, 192))


def test_input_with_a_name() -> None:
    assert parse_input("data:0=8x1x32x32") == InputSpec("data:0", (8, 1, 32, 32))


@pytest.mark.parametrize("text", ["", "3,224,224", "1x3x224x", "1x3xHxW", "=1x3x8x8", "1X3X8X8", "1x3x8.0x8"])
def test_input_that_does_not_read_says_the_form(text: str) -> None:
    with pytest.raises(UserInputError, match=r"expected \[NAME=\]NxCxHxW, such as 1x3x224x224"):
        parse_input(text)


@pytest.mark.parametrize("text", ["1x3x0x8", "-1x3x8x8"])
def test_input_size_below_one(text: str) -> None:
    with pytest.raises(UserInputError, match="below 1"):
        parse_input(text)


@pytest.mark.parametrize("text", ["3x224x224", "8", "1x1x3x8x8"])
def test_input_of_another_rank(text: str) -> None:
    with pytest.raises(UserInputError, match="expected four"):
        parse_input(text)


# --- --calibration: arrays ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_npy(folder: Path, dtype: type[np.floating[Any]]) -> None:
    samples = RNG.standard_normal((5, 3, 4, 6)).astype(dtype)
    np.save(folder / "c.npy", samples)
    loaded = load_calibration("c.npy", SPEC)
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, samples.astype(np.float32))


def test_npz_takes_images_or_the_only_array(folder: Path) -> None:
    samples = RNG.standard_normal((2, 3, 4, 6)).astype(np.float32)
    np.savez(folder / "one.npz", x=samples)
    np.savez(folder / "two.npz", images=samples, labels=np.zeros(2))
    for name in ("one.npz", "two.npz"):
        np.testing.assert_array_equal(load_calibration(name, SPEC), samples)


def test_npz_with_several_unknown_arrays_lists_them(folder: Path) -> None:
    np.savez(folder / "c.npz", x=np.zeros(1), y=np.zeros(1))
    assert "holds the arrays x, y; expected one named 'images'" in refusal("c.npz")


@pytest.mark.parametrize(
    ("samples", "says"),
    [
        (np.zeros((2, 1, 4, 6), np.float32), "has shape [2, 1, 4, 6]; expected [samples, 3, 4, 6]"),
        (np.zeros((2, 3, 6, 4), np.float32), "has shape [2, 3, 6, 4]"),
        (np.zeros((3, 4, 6), np.float32), "has shape [3, 4, 6]"),
        (np.zeros((0, 3, 4, 6), np.float32), "is empty"),
        (np.zeros((2, 3, 4, 6), np.uint8), "is uint8; expected floats, preprocessed"),
        (np.full((1, 3, 4, 6), np.nan), "72 of 72 values are NaN or infinite"),
        (np.full((1, 3, 4, 6), 1e300), "72 of 72 values are NaN or infinite"),
    ],
)
def test_array_that_does_not_fit(folder: Path, samples: NDArray[Any], says: str) -> None:
    np.save(folder / "c.npy", samples)
    assert says in refusal("c.npy")


@pytest.mark.parametrize("content", [b"", b"no array", b"\x93NUMPY\x01\x00", b"PK\x03\x04"])
@pytest.mark.parametrize("name", ["c.npy", "c.npz"])
def test_unreadable_array_file(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    assert f"--calibration {name}: cannot be read" in refusal(name)


@pytest.mark.parametrize("spec", ["nowhere", "c.npy", "images.txt"])
def test_source_that_is_not_there(spec: str) -> None:
    assert f"--calibration {spec}: " in refusal(spec)


def test_mean_is_refused_for_preprocessed_arrays(folder: Path) -> None:
    """It would be ignored; the user must not believe that it was applied."""
    np.save(folder / "c.npy", np.zeros((1, 3, 4, 6), np.float32))
    assert "--mean and --std are for a folder of images" in refusal("c.npy", mean=[0.5, 0.5, 0.5])


# --- --calibration: images ----------------------------------------------------------------------------------------


def save_image(path: Path, pixels: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def test_images_are_scaled_normalized_and_in_order_of_their_paths(folder: Path) -> None:
    pixels = RNG.integers(0, 256, (2, 4, 6, 3))
    save_image(folder / "set" / "b" / "1.PNG", pixels[1])
    save_image(folder / "set" / "a" / "2.png", pixels[0])
    (folder / "set" / "labels.txt").write_text("no image")
    mean, std = [0.4, 0.5, 0.6], [0.1, 0.2, 0.3]
    loaded = load_calibration("set", SPEC, mean, std)
    expected = (pixels.transpose(0, 3, 1, 2) / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    assert loaded.dtype == np.float32
    np.testing.assert_allclose(loaded, expected, rtol=1e-5, atol=1e-5)


def test_images_without_mean_and_std_are_in_0_to_1(folder: Path) -> None:
    save_image(folder / "set" / "a.png", np.full((4, 6, 3), 255))
    np.testing.assert_array_equal(load_calibration("set", SPEC), np.ones((1, 3, 4, 6)))


def test_images_are_resized_to_height_by_width_and_made_rgb(folder: Path) -> None:
    columns = np.tile(np.array([0, 255]), (8, 6))
    save_image(folder / "set" / "grey.png", columns)
    loaded = load_calibration("set", SPEC)
    assert loaded.shape == (1, 3, 4, 6)
    np.testing.assert_allclose(loaded[0, 0], loaded[0, 2])
    assert 0.3 < loaded.mean() < 0.7


def test_grey_input_reads_grey(folder: Path) -> None:
    save_image(folder / "set" / "a.png", np.full((4, 6, 3), 51))
    loaded = load_calibration("set", InputSpec("input", (1, 1, 4, 6)))
    np.testing.assert_allclose(loaded, np.full((1, 1, 4, 6), 0.2), rtol=1e-6)


@pytest.mark.parametrize(("dtype", "mode"), [(np.uint16, "I;16"), (np.int32, "I"), (np.float32, "F")])
def test_an_image_of_more_than_8_bits_is_refused(folder: Path, dtype: type, mode: str) -> None:
    """Pillow clips its pixels: nearly all would be white, or black."""
    (folder / "set").mkdir(exist_ok=True)
    Image.fromarray(np.full((4, 6), 1000, dtype)).save(folder / "set" / "deep.tiff")
    assert f"deep.tiff: has pixels of more than 8 bits (mode {mode})" in refusal("set")


def test_broken_image_is_named(folder: Path) -> None:
    save_image(folder / "set" / "a.png", np.zeros((4, 6, 3)))
    (folder / "set" / "b.jpg").write_bytes(b"no image")
    assert "b.jpg: cannot be read as an image" in refusal("set")


def test_truncated_image_is_named(folder: Path) -> None:
    save_image(folder / "set" / "a.png", RNG.integers(0, 256, (64, 64, 3)))
    data = (folder / "set" / "a.png").read_bytes()
    (folder / "set" / "a.png").write_bytes(data[: len(data) // 2])
    assert "a.png: cannot be read as an image" in refusal("set")


def test_folder_without_images(folder: Path) -> None:
    (folder / "set").mkdir()
    assert "holds no image" in refusal("set")


def test_images_for_an_input_of_other_channels(folder: Path) -> None:
    save_image(folder / "set" / "a.png", np.zeros((4, 6, 3)))
    with pytest.raises(UserInputError, match="the input has 4; give a"):
        load_calibration("set", InputSpec("input", (1, 4, 4, 6)))


@pytest.mark.parametrize(
    ("mean", "std", "says"),
    [
        ([0.5], None, "--mean has 1 values; the input has 3 channels"),
        (None, [1.0, 1.0, 0.0], "--std [1.0, 1.0, 0.0]: expected finite numbers, above 0"),
        ([0.5, float("nan"), 0.5], None, "--mean"),
    ],
)
def test_mean_and_std_that_do_not_fit(
    folder: Path, mean: Sequence[float] | None, std: Sequence[float] | None, says: str
) -> None:
    save_image(folder / "set" / "a.png", np.zeros((4, 6, 3)))
    assert says in refusal("set", mean, std)


def test_large_folder_is_sampled_evenly(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "CALIBRATION_LIMIT", 3)
    for index in range(8):
        save_image(folder / "set" / f"{index}.png", np.full((4, 6, 3), index))
    np.testing.assert_allclose(load_calibration("set", SPEC)[:, 0, 0, 0] * 255, [0, 3, 6], rtol=1e-5)


# --- --calibration: functions -------------------------------------------------------------------------------------


def function(folder: Path, body: str) -> str:
    (folder / "data.py").write_text(f"import numpy as np\nimport torch\ndef batches():\n    {body}\n")
    return "data.py:batches"


@pytest.mark.parametrize(
    "body",
    [
        "yield np.ones((2, 3, 4, 6), np.float32); yield np.ones((1, 3, 4, 6))",
        "yield torch.ones(3, 3, 4, 6, requires_grad=True)",
        "return [(torch.ones(2, 3, 4, 6), torch.zeros(2)), [torch.ones(1, 3, 4, 6).half()]]",
        "return np.ones((3, 3, 4, 6))",
        "return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(3, 3, 4, 6)), batch_size=2)",
    ],
)
def test_function_yields_batches(folder: Path, body: str) -> None:
    loaded = load_calibration(function(folder, body), SPEC)
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, np.ones((3, 3, 4, 6)))


def test_function_that_never_ends_is_cut(folder: Path) -> None:
    body = "while True: yield np.ones((100, 3, 4, 6), np.float32)"
    assert len(load_calibration(function(folder, body), SPEC)) == inputs.CALIBRATION_LIMIT


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("yield from ()", "holds nothing"),
        ("return 3", "is a int; expected batches"),
        ("yield np.ones((2, 3, 4, 6)); yield np.ones((2, 3, 4, 5))", "batch 1: has shape [2, 3, 4, 5]"),
        ("yield np.full((1, 3, 4, 6), np.inf)", "batch 0: 72 of 72 values are NaN or infinite"),
        ("yield torch.ones(1, 3, 4, 6, dtype=torch.uint8)", "batch 0: is uint8"),
        ("yield 'a'", "batch 0: is a str; expected an array or tensor"),
        ("yield ()", "batch 0: is a NoneType; expected an array or tensor"),
        ("yield np.ones((1, 3, 4, 6)); raise OSError('gone')", "raised OSError: gone, at "),
        ("return open('missing.bin')", "raised FileNotFoundError"),
    ],
)
def test_function_that_gives_no_batches(folder: Path, body: str, says: str) -> None:
    assert says in refusal(function(folder, body))


# --- --evaluate ---------------------------------------------------------------------------------------------------


def predict(images: inputs.Images) -> inputs.Images:
    return images * 2


@pytest.mark.parametrize("result", ["x.mean()", "float(x.mean())", "2", "torch.tensor(2.0)", "np.array([2.0])"])
def test_evaluator_gives_the_users_number(folder: Path, result: str) -> None:
    body = (
        f"import numpy as np, torch\ndef score(p):\n    x = p(np.ones((1, 3, 2, 2), np.float32))\n    return {result}\n"
    )
    (folder / "ev.py").write_text(body)
    score = load_evaluator("ev.py:score")(predict)
    assert type(score) is float
    assert score == 2.0


@pytest.mark.parametrize("result", ["None", "'91'", "float('nan')", "float('-inf')", "[1.0, 2.0]", "True", "{}"])
def test_evaluator_that_gives_no_finite_number(folder: Path, result: str) -> None:
    (folder / "ev.py").write_text(f"def score(p):\n    return {result}\n")
    with pytest.raises(UserInputError, match="expected one finite number"):
        load_evaluator("ev.py:score")(predict)


def test_evaluator_that_raises_shows_the_users_line(folder: Path) -> None:
    (folder / "ev.py").write_text("def score(p):\n    return p(None)\n")
    with pytest.raises(UserInputError, match=r"--evaluate ev.py:score: raised TypeError"):
        load_evaluator("ev.py:score")(predict)
