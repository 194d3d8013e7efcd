"""Models that hold factorized layers already: these keep their factors, and only their lowering is chosen."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from kronexport.compression import compress
from kronexport.export.factors_file import load_compressed, save_compressed
from kronexport.export.replace import kronecker_modules
from kronexport.factorize.decompose import decompose
from kronexport.factorize.gkpd import gkpd_structure
from kronexport.records import Structure, TargetReport
from kronexport.ship.report_json import read_report_json
from kronexport.verify.outputs import run_onnx
from tests.conftest import SHORT, Ended, command
from tests.small_network import SHAPE, images, small

TARGET = "x86-onnxruntime"
FACTORY = """
from kronexport import load_compressed
from tests.small_network import small

def net():
    m = load_compressed(small(), {factors!r})
    {body}
    return m
"""


def structures(*sites: str) -> dict[str, Structure]:
    """Two methods and a linear layer."""
    weight = small().get_parameter("3.weight").detach().numpy()
    found = {
        "0": gkpd_structure((8, 1, 1, 1), (1, 3, 3, 3), 4),
        "3": decompose(weight, "tucker2", (4, 4)).structure,
        "7": gkpd_structure((5, 1, 1, 1), (1, 12, 1, 1), 2),
    }
    return {site: found[site] for site in sites}


def build(folder: Path, *sites: str, body: str = "pass", asked: tuple[object, ...] = ()) -> tuple[Ended, nn.Module]:
    """``kronexport build`` of a model that is factorized at ``sites``; and that model."""
    compressed = compress(small(), SHAPE, include=("*",), structures=structures(*sites)).model
    save_compressed(compressed, folder / "factors.safetensors")
    (folder / "net.py").write_text(FACTORY.format(factors=str(folder / "factors.safetensors"), body=body))
    size = "x".join(map(str, SHAPE))
    ended = command("build", f"{folder / 'net.py'}:net", "--input", size, "--out", folder / "out", *asked, *SHORT)
    return ended, compressed


def report(folder: Path) -> TargetReport:
    return read_report_json(folder / "out" / "report.json").targets[TARGET]


def test_factors_go_through_the_line_as_they_are(tmp_path: Path) -> None:
    """No goal is set, every stage agrees, the factors are kept bit for bit, and the engine computes what they do."""
    np.save(tmp_path / "images.npy", images(4))
    ended, model = build(tmp_path, "0", "3", "7", asked=("--calibration", tmp_path / "images.npy"))
    assert ended.code == 0, ended.err
    found = report(tmp_path)
    assert found.goals == ()
    assert [(row.site, row.method, row.ranks) for row in found.layers] == [
        ("0", "gkpd", (4,)),
        ("3", "tucker2", (4, 4)),
        ("7", "gkpd", (2,)),
    ]
    assert [row.structure for row in found.layers] == [str(one) for one in structures("0", "3", "7").values()]
    assert {row.rel_error for row in found.layers} == {0.0}
    checks = {check.stage: check for check in found.verification}
    assert checks["factorized"].rel_l2 is not None
    assert checks["factorized"].rel_l2 <= 1e-5
    assert all(check.passed for check in found.verification if check.tolerance is not None)
    assert "3 layers keep the factors that the model came with" in found.notes
    assert not any("factors are fitted" in note for note in found.notes)
    (shipped,) = run_onnx(tmp_path / "out" / TARGET / "model.onnx", images(1)).values()
    with torch.no_grad():
        expected = model(torch.from_numpy(images(1))).numpy()
    assert np.linalg.norm(shipped - expected) <= 1e-5 * np.linalg.norm(expected)
    again = load_compressed(small(), tmp_path / "out" / "intermediates" / TARGET / "factors.safetensors")
    for site, layer in kronecker_modules(again).items():
        for one, other in zip(layer.factors, kronecker_modules(model)[site].factors, strict=True):
            assert torch.equal(one, other)
    assert command("verify", tmp_path / "out" / TARGET).code == 0


def test_dense_is_the_network_of_the_whole_weights(tmp_path: Path) -> None:
    """Its figures are those of plain layers, biases kept; other convs stay as they are without a goal."""
    ended, model = build(tmp_path, "3")
    assert ended.code == 0, ended.err
    found = report(tmp_path)
    assert found.dense.params == sum(parameter.numel() for parameter in small().parameters())
    assert found.dense.macs == 24 * 24 * 8 * 3 * 9 + 12 * 12 * 12 * 8 * 9 + 12 * 5
    assert found.compressed.params == sum(parameter.numel() for parameter in model.parameters())
    assert [(row.site, row.method) for row in found.layers] == [("0", "dense"), ("3", "tucker2")]


def test_a_goal_factorizes_the_other_convs(tmp_path: Path) -> None:
    """A ratio is one to the dense network; patterns do not touch the layers with factors."""
    asked = ("--goal", "params<=0.4", "--exclude", "3")
    ended, _ = build(tmp_path, "3", asked=asked)
    assert ended.code == 0, ended.err
    found = report(tmp_path)
    assert [(row.site, row.method) for row in found.layers] == [("0", "gkpd"), ("3", "tucker2")]
    assert found.goals[0].met is True
    assert found.compressed.params <= 0.4 * found.dense.params


def test_a_training_leaves_factors_that_came_with_the_model(tmp_path: Path) -> None:
    """Those of the other layer are trained."""
    np.save(tmp_path / "images.npy", images(32))
    words = ["--recover", tmp_path / "images.npy", "--epochs", "3", "--set", "recipe.batch=16"]
    asked = ("--target", "rpi5", "--goal", "params<=0.4")
    fitted: dict[str, list[nn.Parameter]] = {}
    trained: dict[str, list[nn.Parameter]] = {}
    for factors, more in ((fitted, ()), (trained, words)):
        ended, model = build(tmp_path, "3", asked=(*asked, *more))
        assert ended.code == 0, ended.err
        shipped = load_compressed(small(), tmp_path / "out" / "intermediates" / "rpi5" / "factors.safetensors")
        factors |= {site: list(layer.factors) for site, layer in kronecker_modules(shipped).items()}
    own = list(kronecker_modules(model)["3"].factors)
    assert all(torch.equal(one, other) for one, other in zip(trained["3"], own, strict=True))
    assert not any(torch.equal(one, other) for one, other in zip(trained["0"], fitted["0"], strict=True))


def test_a_plan_of_a_model_with_factors_is_taken_too(tmp_path: Path) -> None:
    """Its own, with the lowering ``dense`` put in by hand."""
    ended, _ = build(tmp_path, "3", asked=("--dry-run",))
    assert ended.code == 0, ended.err
    text = "version = 1\ntarget = 'cpu'\n[[site]]\nname = '3'\nmethod = 'tucker2'\nranks = [4, 4]\nlowering = 'dense'\n"
    for factor in structures("3")["3"].factors:
        text += f"[[site.factors]]\nrank_axes = '{factor.rank_axes}'\nsize = {list(factor.size)}\n"
    (tmp_path / "plan.toml").write_text(text)
    ended, _ = build(tmp_path, "3", asked=("--plan", tmp_path / "plan.toml"))
    assert ended.code == 0, ended.err
    row = report(tmp_path).layers[1]
    assert (row.method, row.lowering, row.rel_error) == ("tucker2", "dense", 0.0)
    assert row.params < small().get_parameter("3.weight").numel()
    (tmp_path / "plan.toml").write_text(text.replace("[4, 4]", "[4, 3]"))
    ended, _ = build(tmp_path, "3", asked=("--plan", tmp_path / "plan.toml"))
    assert ended.code == 2
    assert "the model holds factors here already" in ended.err


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("m = m[3]", "KroneckerConv2d: is the whole model; put it into an nn.Sequential"),
        (
            "m.forward = lambda x: m[3](m[0](x)) + m[3](m[0](x))",
            "3: holds factors, and is called 2 times in one forward",
        ),
        ("m[3].register_forward_hook(lambda *a: None)", "3: has hooks, which would be lost"),
        (
            "m[3].__class__ = type('Own', (type(m[3]),), {'forward': lambda s, x: x})",
            "3: is a Own, which has a forward",
        ),
    ],
)
def test_a_place_where_factors_cannot_stay(tmp_path: Path, body: str, says: str) -> None:
    """Exit code 2, and nothing is written."""
    ended, _ = build(tmp_path, "3", body=body)
    assert ended.code == 2
    assert f"error: MODEL: {says}" in ended.err
    assert not (tmp_path / "out").exists()
