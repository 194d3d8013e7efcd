"""The command line: what is wrong ends in its own exit code, with a message that says what to do, and leaves nothing.

Exit codes: 2 the user's input, 3 a missing runtime, 6 a damaged bundle; 1 and 130 are in test_unfinished.py.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kronexport import pipeline
from tests.conftest import SHORT, Built, Ended, command

FACTORIES = """
import torch
from torch import nn


def net():
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 10, 3))


def raises():
    sizes = {}
    return sizes["missing"]


def without_conv():
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 12, 4))


def only_depthwise():
    return nn.Conv2d(3, 3, 3, groups=3)


def diverged():
    model = net()
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] = float("nan")
    return model


def takes_arguments(width):
    return net()


number = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: ``models.py``, and whatever the test puts there."""
    (tmp_path / "models.py").write_text(FACTORIES, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def build(*arguments: str, factory: str = "models.py:net", size: str = "1x3x12x12") -> Ended:
    return command("build", factory, "--input", size, "--out", "out", *arguments, *SHORT)


def refused(ended: Ended, code: int, *words: str) -> None:
    """The command ended with ``code``, wrote no output folder, and its message holds ``words``."""
    assert ended.code == code, ended.err
    assert ended.err.startswith("error: ") or "\nerror: " in ended.err
    assert "Traceback" not in ended.err
    for word in words:
        assert word in ended.err
    assert ended.out == ""
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("models.py:nett", ("models.py has no 'nett'", "did you mean 'net'?")),
        ("model.py:net", ("model.py does not exist", "did you mean 'models.py'?")),
        ("no_such_package.mod:net", ("there is no module 'no_such_package'", "give path/file.py:NAME")),
        ("models.py:number", ("number in models.py is a int, not a function",)),
        ("models.py", ("is not understood", "path/file.py:NAME")),
        ("models.py:raises", ("calling the factory", "KeyError", "models.py:12", "sizes")),
        ("models.py:takes_arguments", ("takes (width)", "give them defaults")),
        ("models.py:without_conv", ("no convolution to factorize", "expected at least one nn.Conv2d")),
        ("models.py:only_depthwise", ("no convolution left to factorize", "is depthwise")),
        ("models.py:diverged", ("0.weight has 1 NaN", "before the training diverged")),
        ("sample:resnet21", ("resnet21", "resnet20")),
    ],
)
def test_a_model_that_cannot_be_built_is_refused(factory: str, words: tuple[str, ...], folder: Path) -> None:
    assert folder.is_dir()
    refused(build(factory=factory), 2, *words)


def test_a_file_that_is_not_python_is_refused_by_its_line(folder: Path) -> None:
    (folder / "broken.py").write_text("def net():\n    return (\n", encoding="utf-8")
    refused(build(factory="broken.py:net"), 2, "broken.py:2 is not Python", "give a .py source file")
    (folder / "picture.png").write_bytes(b"\x89PNG")
    refused(build(factory="picture.png:net"), 2, "picture.png is not a Python file", "expected path/file.py:NAME")


def without_a_bias(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if name != "0.bias"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without_a_bias, ("1 missing in the file", "0.bias [6]")),
        (lambda state: {**state, "head.weight": torch.zeros(2)}, ("1 unknown to the model", "head.weight [2]")),
        (lambda state: {**state, "0.weight": torch.zeros(6, 3, 5, 5)}, ("0.weight: got [6, 3, 5, 5]", "[6, 3, 3, 3]")),
        (lambda state: {**state, "2.bias": torch.full((10,), torch.nan)}, ("2.bias has 10 NaN", "expected finite")),
    ],
    ids=["missing", "extra", "wrong shape", "NaN"],
)
def test_weights_that_do_not_fit_are_refused(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]], words: tuple[str, ...], folder: Path
) -> None:
    shapes = {"0.weight": (6, 3, 3, 3), "0.bias": (6,), "2.weight": (10, 6, 3, 3), "2.bias": (10,)}
    torch.save(change({name: torch.zeros(shape) for name, shape in shapes.items()}), folder / "weights.pt")
    refused(build("--weights", "weights.pt"), 2, "weights.pt", *words)


def test_weights_that_are_not_there_are_named(folder: Path) -> None:
    assert folder.is_dir()
    refused(build("--weights", "none.pt"), 2, "none.pt: there is no such weights file")


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ("1x4x12x12", ("--input 1x4x12x12: the model refuses it", "channels")),
        ("1x3x2x2", ("--input 1x3x2x2: the model refuses it",)),
        ("3x12x12", ("'3x12x12' has 3 sizes", "such as 1x3x224x224")),
        ("big", ("'big' is not understood", "[NAME=]NxCxHxW")),
    ],
)
def test_an_input_that_the_model_refuses_is_refused(size: str, words: tuple[str, ...], folder: Path) -> None:
    assert folder.is_dir()
    refused(build(size=size), 2, *words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--target", "jetsn"), ("target 'jetsn': no such target", "did you mean 'jetson'?")),
        (("--target", "jetson@jp5"), ("target 'jetson@jp5': no such variant", "jp6.2")),
        (("--goal", "latency=0.5"), ("--goal 'latency=0.5'", "expected NAME<=NUMBER[UNIT]")),
        (("--goal", "latncy<=0.5"), ("did you mean 'latency'?",)),
        (("--goal", "latency<=5kB"), ("unknown unit 'kB' of latency", "us, ms, s")),
        (("--target", "jetson-nano", "--precision", "int8"), ("int8", "jetson-nano is built in fp32")),
        (("--mean", "0.5;0.5"), ("--mean '0.5;0.5'", "such as 0.485,0.456,0.406")),
        (("--include", "layer9*"), ("'layer9*'", "matches no convolution")),
        (("--calibration", "images"), ("--calibration images: does not exist",)),
        (("--evaluate", "models.py:score"), ("models.py has no 'score'",)),
        (("--set", "measure.rounds"), ("expected KEY=VALUE",)),
        (("--set", "mesure.rounds=5"), ("mesure", "did you mean 'measure'?")),
        (("--config", "none.toml"), ("none.toml: cannot be read",)),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(
    arguments: tuple[str, ...], words: tuple[str, ...], folder: Path
) -> None:
    assert folder.is_dir()
    refused(build(*arguments), 2, *words)


def test_an_unknown_key_in_the_toml_is_refused(folder: Path) -> None:
    (folder / "build.toml").write_text('modle = "models.py:net"\n', encoding="utf-8")
    refused(build("--config", "build.toml"), 2, "build.toml: modle", "did you mean 'model'?")


def test_an_unknown_flag_ends_in_2() -> None:
    assert command("build", "--no-such-flag").code == 2


def test_a_folder_with_other_files_is_not_touched(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "thesis.tex").write_text("years of work", encoding="utf-8")
    ended = build()
    assert ended.code == 2
    assert "holds files that kronexport did not write: thesis.tex" in ended.err
    assert "choose another --out" in ended.err
    assert [entry.name for entry in (folder / "out").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(("target", "package"), [("cpu", "onnxruntime"), ("openvino", "openvino")])
def test_a_runtime_that_is_missing_is_found_before_any_work(
    target: str, package: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None in sys.modules makes Python say that there is no such module."""
    assert folder.is_dir()
    monkeypatch.setitem(sys.modules, package, None)
    refused(build("--target", target, factory="models.py:raises"), 3, f"python -m pip install {package}")


# --- damaged bundles ------------------------------------------------------------------------------------------------


def truncated(model: Path) -> None:
    model.write_bytes(model.read_bytes()[:-100])


def altered(model: Path) -> None:
    """One bit of a weight: still a valid model, so only the hash can tell."""
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)


@pytest.mark.parametrize("damage", [truncated, altered, Path.unlink])
@pytest.mark.parametrize("target", ["x86-onnxruntime", "x86-openvino"])
@pytest.mark.parametrize("task", [("verify",), ("bench", "--seconds", "0.05")])
def test_a_damaged_bundle_ends_in_6_before_it_is_loaded(
    damage: Callable[[Path], None],
    target: str,
    task: tuple[str, ...],
    built_copy: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No runtime is there to load it, and the answer is the same."""
    damage(built_copy / target / "model.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "openvino", None)
    ended = command(task[0], built_copy / target, *task[1:])
    assert ended.code == 6, ended.err
    assert "model.onnx" in ended.err
    assert ended.out == ""


@pytest.mark.parametrize("task", ["verify", "bench"])
def test_a_bundle_that_is_not_there_is_refused(task: str, tmp_path: Path) -> None:
    ended = command(task, tmp_path / "none")
    assert ended.code == 2
    assert "no such folder; expected a bundle" in ended.err


def test_a_report_that_is_not_there_is_refused(tmp_path: Path) -> None:
    ended = command("report", tmp_path)
    assert ended.code == 2
    assert "report.json" in ended.err


# --- what works ---------------------------------------------------------------------------------------------------


def test_verify_says_how_close_the_outputs_are(built: Built) -> None:
    ended = command("verify", built.folder / "x86-onnxruntime", "--json")
    assert ended.code == 0, ended.err
    answer = json.loads(ended.out)
    assert answer["passed"] is True
    assert 0 <= answer["rel_l2"] <= 1e-5
    assert "intact, fits this machine" in command("verify", built.folder / "x86-openvino").out


def test_verify_of_a_board_s_bundle_says_what_is_to_be_done_there(built: Built) -> None:
    """The files are whole, but no engine is built yet: exit code 3."""
    ended = command("verify", built.folder / "jetson-orin-nano")
    assert ended.code == 3, ended.err
    assert "run build_engine.sh" in ended.err


@pytest.mark.parametrize("target", ["x86-onnxruntime", "x86-openvino"])
def test_bench_times_the_bundle_against_dense(built: Built, target: str) -> None:
    ended = command("bench", built.folder / target, "--seconds", "0.05", "--rounds", "5", "--json")
    assert ended.code == 0, ended.err
    result = json.loads(ended.out)
    assert list(result["latency_ms"]) == ["dense", "bundle"]
    assert result["speedups"]["bundle"]["verdict"] in ("faster", "slower", "within noise")


def test_report_is_written_again_from_its_json(built_copy: Path) -> None:
    before = (built_copy / "report.html").read_text(encoding="utf-8")
    (built_copy / "report.html").unlink()
    ended = command("report", built_copy)
    assert ended.code == 0, ended.err
    assert (built_copy / "report.html").read_text(encoding="utf-8") == before
    assert "x86-openvino" in ended.out
    as_json = command("report", built_copy, "--json")
    assert json.loads(as_json.out) == json.loads((built_copy / "report.json").read_text(encoding="utf-8"))


def test_targets_are_listed_with_their_aliases() -> None:
    listed = command("targets", "list").out
    assert "jetson-orin-nano, jetson" in listed
    assert "JetPack 5.1, @jp4.6\n" in listed
    variants = {entry["name"]: entry["variants"] for entry in json.loads(command("targets", "list", "--json").out)}
    assert set(variants) >= {"x86-onnxruntime", "x86-openvino", "jetson-orin-nano", "rpi5"}
    assert variants["jetson-xavier-nx"] == ["jp4.6"]


def test_a_target_is_shown_with_its_sources() -> None:
    shown = json.loads(command("targets", "show", "jetson", "--json").out)
    assert (shown["name"], shown["opset"], shown["ir_version"]) == ("jetson-orin-nano", 17, 8)
    assert shown["routes"]["int8"] == ["qdq-symmetric"]
    assert shown["facts"]["routes.int8"]["source"]
    assert "source: " in command("targets", "show", "cpu").out
    unknown = command("targets", "show", "cpuu")
    assert unknown.code == 2
    assert "did you mean 'cpu'?" in unknown.err


def test_doctor_looks_at_everything_that_is_used() -> None:
    names = {finding["name"] for finding in json.loads(command("doctor", "--json").out)}
    assert names >= {"python", "torch", "onnxruntime", "openvino", "onnxsim"}


def test_schema_describes_the_report() -> None:
    schema = json.loads(command("schema").out)
    assert set(schema["properties"]) >= {"schema", "model", "targets"}


HEAVY = {"torch", "onnx", "onnx_ir", "onnxruntime", "openvino", "numpy", "scipy"}


@pytest.mark.parametrize(
    ("arguments", "absent"),
    [(["--help"], HEAVY | {"pydantic"}), (["build", "--help"], HEAVY)],  # typer reads a command's options by pydantic
    ids=["program", "command"],
)
def test_help_loads_nothing_heavy(arguments: list[str], absent: set[str]) -> None:
    """It has to answer at once."""
    code = (
        f"import sys; from kronexport.cli import run; code = run({arguments});"
        "print(*sys.modules, file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage" in done.stdout
    assert not absent & {name.split(".")[0] for name in done.stderr.split()}


def test_help_is_readable_in_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of a line is for what an option does, and nothing of it is taken for markup."""
    monkeypatch.setenv("COLUMNS", "80")
    shown = command("build", "--help").out
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 90
    assert "ssh://[user@]host[:port]" in shown
    assert "[NAME=]1x3x224x224" in shown


@pytest.mark.parametrize("task", ["build", "plan"])
@pytest.mark.parametrize(
    ("mistyped", "words"),
    [
        (("--goal", "mac<=0.5"), "did you mean 'macs'?"),
        (("--target", "jetsn"), "did you mean 'jetson'?"),
        (("--weights", "none.pt"), "there is no such weights file"),
        (("--target", "jetson-nano", "--precision", "int8"), "jetson-nano is built in fp32"),
        (("sample:resnet19",), "sample:resnet19: no such sample; did you mean"),
    ],
    ids=["goal", "target", "weights", "precision", "sample"],
)
def test_what_is_mistyped_is_answered_before_torch_is_loaded(task: str, mistyped: tuple[str, ...], words: str) -> None:
    """Loading it takes seconds."""
    model = [] if mistyped[0].startswith("sample:") else ["sample:resnet18"]
    arguments = [task, *model, *mistyped]
    code = f"import sys; from kronexport.cli import run; code = run({arguments});print(code, *sys.modules); sys.exit(0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found, *modules = done.stdout.split()
    assert found == "2"
    assert words in done.stderr
    assert not (HEAVY - {"numpy"}) & {name.split(".")[0] for name in modules}


def test_a_bug_is_not_hidden(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody foresaw keeps its traceback; Python ends it in 1."""

    def bug(*_args: object) -> None:
        raise ZeroDivisionError

    assert folder.is_dir()
    monkeypatch.setattr(pipeline, "run", bug)
    with pytest.raises(ZeroDivisionError):
        build()
