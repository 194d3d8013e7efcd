"""Outputs of two stages: how far apart they are, and what makes them incomparable."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from torch import Tensor, nn

from kronexport.errors import KronexportError, VerificationError
from kronexport.verify.outputs import compare, run_onnx, run_torch
from tests.measure.samples import expected, images, save_model


@given(st.floats(1e-6, 10), st.integers(1, 30))
def test_rel_l2_is_the_norm_of_the_difference_over_that_of_the_reference(error: float, size: int) -> None:
    """Of every element the same share is wrong, so of the norm too."""
    reference = np.arange(1, size + 1, dtype=np.float64)
    check = compare("lowered", "portable", {"y": reference * (1 + error)}, {"y": reference}, None)
    assert check.rel_l2 == pytest.approx(error)
    assert check.max_abs == pytest.approx(error * size)


@pytest.mark.parametrize(("tolerance", "passed"), [(1e-5, False), (1e-3, True), (None, None)])
def test_the_tolerance_decides(tolerance: float | None, passed: bool | None) -> None:  # noqa: FBT001  the expectation
    """Without one it is an approximation, which cannot fail."""
    got, reference = {"y": np.full(4, 1.0001)}, {"y": np.ones(4)}
    assert compare("lowered", "portable", got, reference, tolerance).passed is passed


def test_the_worst_output_counts() -> None:
    got = {"a": np.ones(3), "b": np.array([1.5, 1.0, 1.0])}
    check = compare("lowered", "portable", got, {"x": np.ones(3), "y": np.ones(3)}, 1e-5)
    assert check.max_abs == 0.5
    assert check.passed is False


def test_of_labels_the_part_counts_that_is_another_one() -> None:
    """However near by number, and however far."""
    right = np.array([900, 500, 701, 330])
    assert compare("half", "simplified", {"y": right + 1}, {"y": right}, 2e-3).rel_l2 == 1.0
    far = compare("half", "simplified", {"y": np.array([0, 500, 701, 330])}, {"y": right}, 0.25)
    assert (far.rel_l2, far.passed) == (0.25, True)
    with pytest.raises(VerificationError, match="half: output y is int64, simplified's is float64"):
        compare("half", "simplified", {"y": right}, {"y": right.astype(float)}, None)


def test_a_reference_of_zeros_is_compared_absolutely() -> None:
    check = compare("lowered", "portable", {"y": np.full(4, 0.5)}, {"y": np.zeros(4)}, 1e-5)
    assert check.rel_l2 == 1.0


@pytest.mark.parametrize(
    ("got", "reason"),
    [
        (np.ones((2, 3)), r"lowered: output y has shape \(2, 3\), portable's has \(3,\)"),
        (np.array([1.0, np.nan, 1.0]), "lowered: output y is not finite"),
        (np.array([1.0, np.inf, 1.0]), "lowered: output y is not finite"),
    ],
)
def test_outputs_that_cannot_be_compared_fail(got: np.ndarray[Any, Any], reason: str) -> None:
    """Whatever the tolerance: a NaN is no agreement."""
    with pytest.raises(VerificationError, match=reason):
        compare("lowered", "portable", {"y": got}, {"y": np.ones(3)}, None)


def test_onnx_takes_the_images_a_batch_at_a_time(tmp_path: Path) -> None:
    """The model has a batch of 2."""
    model, batches = save_model(tmp_path / "model.onnx"), images(6)
    (outputs,) = run_onnx(model, batches).values()
    np.testing.assert_allclose(outputs, expected(batches), rtol=1e-5, atol=1e-6)


def test_a_model_that_the_runtime_cannot_load_is_an_error_of_ours(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Nothing", ["x"], ["x2"], domain="no.such")], "g", [value], [])
    graph.output.append(helper.make_tensor_value_info("x2", TensorProto.FLOAT, [1]))
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("no.such", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "model.onnx")
    with pytest.raises(KronexportError, match=r"model\.onnx: the runtime cannot load this model"):
        run_onnx(tmp_path / "model.onnx", images())


class Returns(nn.Module):
    """Gives back whatever ``make`` makes of its input."""

    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: Tensor) -> Any:
        return self.make(x)


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (lambda x: x, 1),
        (lambda x: (x, 2 * x), 2),
        (lambda x: {"late": x, "early": 2 * x}, 2),
        (lambda x: {"levels": [x, 2 * x], "scores": (3 * x,)}, 3),
    ],
    ids=["tensor", "tuple", "dict", "nested"],
)
def test_torch_outputs_are_all_tensors_in_order(make: Callable[[Tensor], Any], count: int) -> None:
    """Whatever holds them, the k-th is k times the input here; batches are joined again."""
    batches = images(6)
    outputs = run_torch(Returns(make), batches, batch=2)
    assert len(outputs) == count
    for place, output in enumerate(outputs.values()):
        np.testing.assert_array_equal(output, (place + 1) * batches)


def test_a_forward_that_changes_its_input_in_place_gets_a_copy() -> None:
    class InPlace(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mul_(2)

    given = images(4)
    before = given.copy()
    (found,) = run_torch(InPlace(), given, 2).values()
    np.testing.assert_array_equal(given, before)
    np.testing.assert_array_equal(found, 2 * before)


def test_torch_runs_a_batch_at_a_time() -> None:
    """As the model was surveyed: it may not take another."""
    sizes = []

    def note(x: Tensor) -> Tensor:
        sizes.append(x.shape[0])
        return x

    run_torch(Returns(note), images(6), batch=2)
    assert sizes == [2, 2, 2]
    assert not torch.is_inference_mode_enabled()
