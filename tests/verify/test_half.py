"""The FP16 model keeps the tolerance, with overflow planted or not; what stays in float is told with the reason."""

import tempfile
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kronexport.errors import VerificationError
from kronexport.precision.half import HALF, half_nodes
from kronexport.verify.half import verify_half
from kronexport.verify.outputs import compare, run_onnx
from kronexport.verify.stages import VerifiedModel
from tests.lower.small_graphs import floats, graph

SHAPE = (1, 4, 5, 5)
TOLERANCE = 5e-3
IMAGES = floats(6, *SHAPE[1:])


def chain(scales: list[float]) -> ir.Model:
    """A 1x1 Conv and a Relu for each scale, by which the weight is multiplied; in the end the mean over the image."""
    names = ["x", *(f"r{index}" for index in range(len(scales)))]
    body = " ".join(
        f"[conv{index}] c{index} = Conv({names[index]}, w{index}) [relu{index}] r{index} = Relu(c{index})"
        for index in range(len(scales))
    )
    weights = {f"w{index}": scale * floats(4, 4, 1, 1) for index, scale in enumerate(scales)}
    return graph("float[1,4,5,5] x => float[1,4,1,1] y", f"{body} [mean] y = GlobalAveragePool({names[-1]})", weights)


def verified(model: ir.Model, folder: Path) -> VerifiedModel:
    path = folder / "model.onnx"
    ir.save(model, path)
    return VerifiedModel(path, run_onnx(path, IMAGES), (), ())


def verify(model: ir.Model, folder: Path, tolerance: float = TOLERANCE) -> VerifiedModel:
    return verify_half(verified(model, folder), IMAGES, [{"x": IMAGES[:1]}], tolerance=tolerance)


def in_float(model: VerifiedModel) -> set[str]:
    """Names of the nodes that make no FP16 values."""
    typed = ir.load(model.path)
    kept = {node.name for node in typed.graph if HALF not in {value.dtype for value in node.outputs}}
    return {str(name) for name in kept if not str(name).endswith("_cast")}


def test_an_ordinary_network_is_fp16_throughout(tmp_path: Path) -> None:
    before = verified(chain([1, 1]), tmp_path)
    found = verify_half(before, IMAGES, [], tolerance=TOLERANCE)
    assert in_float(found) == set()
    assert found.notes == ()
    (check,) = found.checks
    assert (check.stage, check.against, check.tolerance, check.passed) == ("half", "simplified", TOLERANCE, True)
    assert 0 < (check.rel_l2 or 0) < TOLERANCE
    assert (found.in_float, found.path.name) == (before.path, "model.onnx")
    assert found.path != before.path


def test_a_value_that_overflows_stays_in_float_and_is_told(tmp_path: Path) -> None:
    """From the node that makes it to the one that brings it back."""
    found = verify(chain([1, 1e5, 1e-5, 1]), tmp_path)
    assert {"conv1", "relu1", "conv2"} <= in_float(found)
    assert not {"conv0", "conv3"} & in_float(found)
    (note,) = found.notes
    assert note.startswith("fp16: 3 of 9 nodes stay in float since FP16 is too small for them: conv1 (w1 reaches ")
    assert "relu1 (c1 reaches" in note


def test_what_moves_the_outputs_most_stays_in_float(tmp_path: Path) -> None:
    """Two large values of which the difference is all that counts: no range tells."""
    model = graph(
        "float[1,4,5,5] x => float[1,4,5,5] y",
        "[up] a = Add(x, large) [down] b = Sub(a, large) [last] y = Conv(b, w)",
        {"large": np.array([1000], np.float32), "w": floats(4, 4, 1, 1)},
    )
    found = verify(model, tmp_path)
    assert in_float(found) == {"up", "down"}
    assert "fp16: 2 of 3 nodes stay in float since they move the outputs most: " in found.notes[0]
    assert found.checks[0].passed


def test_nodes_that_move_the_outputs_alike_are_taken_in_the_order_of_the_graph(tmp_path: Path) -> None:
    """Whatever the hashes of their names are: the same model comes out of every build."""
    names = ["e", "b", "d", "a", "c"]
    outputs = ", ".join(f"float[1,4,5,5] y_{name}" for name in names)
    body = " ".join(f"[{name}] y_{name} = Relu(x)" for name in names)
    found = verify(graph(f"float[1,4,5,5] x => {outputs}", body, {}), tmp_path, 1e-6)
    assert found.notes == ("fp16: 5 of 5 nodes stay in float since they move the outputs most: e, b, d, a, c",)


def test_a_tolerance_that_inputs_in_fp16_do_not_keep_is_refused(tmp_path: Path) -> None:
    """What FP16 costs nothing can bring back where a node cannot be kept."""
    model = chain([1])
    with pytest.raises(VerificationError, match="half: outputs differ from simplified's"):
        verify_half(
            VerifiedModel(verified(model, tmp_path).path, {"y": floats(6, 4, 1, 1)}, (), ()), IMAGES, [], tolerance=1e-3
        )


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.sampled_from([1.0, 1.0, 1e-7, 1e-5, 1e4, 3e5]), min_size=1, max_size=5),
    st.sampled_from([1.0, 1.0, 1e-6, 1e5]),
)
def test_planted_overflow_ends_finite_and_within_the_tolerance(scales: list[float], of_input: float) -> None:
    """Large and small weights and activations, wherever they are: what ships is finite here and on a device."""
    images = (of_input * IMAGES).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        ir.save(chain(scales), path)
        before = VerifiedModel(path, run_onnx(path, images), (), ())
        found = verify_half(before, images, [], tolerance=TOLERANCE)
        shipped = compare("half", "simplified", run_onnx(found.path, images), before.outputs, TOLERANCE)
        assert shipped.passed
        assert found.checks[-1].passed
        assert all(np.isfinite(output).all() for output in found.outputs.values())
        typed = ir.load(found.path)
        for value in typed.graph.initializers.values():
            assert value.const_value is not None
            assert np.isfinite(value.const_value.numpy().astype(np.float64)).all()
        assert not set(half_nodes(ir.load(path))) - {node.name for node in typed.graph}


def test_the_file_that_ships_keeps_the_tolerance_too(tmp_path: Path) -> None:
    """It is not computed in FP16 here: what jumps, as a cast to whole numbers, may jump elsewhere."""
    weight = 3 * np.random.default_rng(24).standard_normal((4, 4, 1, 1), np.float32)
    body = "[conv] c = Conv(x, w) [cut] i = Cast<to = 7>(c) [back] f = Cast<to = 1>(i) [add] y = Add(f, c)"
    model = graph("float[1,4,5,5] x => float[1,4,5,5] y", body, {"w": weight})
    found = verify(model, tmp_path, 2e-3)
    shipped = compare("half", "simplified", run_onnx(found.path, IMAGES), verified(model, tmp_path).outputs, 2e-3)
    assert shipped.passed
    assert "conv" in in_float(found)
