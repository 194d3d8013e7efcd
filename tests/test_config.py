"""Flags, ``--set`` and ``build.toml`` become one validated configuration."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from kronexport.config import BuildConfig, MeasureConfig, config_toml, duration_seconds, load_config
from kronexport.errors import UserInputError


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    """A build.toml in a folder that is not the current one."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "build.toml").write_text(
        """
model = "models/net.py:net"
weights = "../weights.pt"
calibration = "images"
evaluate = "score.py:accuracy"
recover = "train.py:loop"
target = ["cpu", "jetson"]
goal = ["macs<=0.5"]
allow-unmeasured = true
out = "dist"
[measure]
seconds = 2.5
""",
        encoding="utf-8",
    )
    return folder / "build.toml"


def test_relative_paths_resolve_from_the_file(toml: Path) -> None:
    """Wherever the command is started."""
    config = load_config(toml, {}, [])
    assert config.model == f"{toml.parent}/models/net.py:net"
    assert config.weights == toml.parent / "../weights.pt"
    assert config.calibration == str(toml.parent / "images")
    assert config.evaluate == f"{toml.parent}/score.py:accuracy"
    assert config.recover == f"{toml.parent}/train.py:loop"
    assert config.out == toml.parent / "dist"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model", "sample:resnet20"),
        ("model", "pkg.mod:factory"),
        ("calibration", "pkg.mod:images"),
        ("evaluate", "pkg.mod:accuracy"),
        ("recover", "pkg.mod:loop"),
        ("weights", "/absolute/weights.pt"),
    ],
)
def test_what_is_no_relative_path_stays_as_it_is(key: str, value: str, tmp_path: Path) -> None:
    file = tmp_path / "build.toml"
    data = {"model": "sample:resnet20", key: value}
    file.write_text(tomli_w.dumps(data), encoding="utf-8")
    assert str(getattr(load_config(file, {}, []), key)) == value


def test_set_overrides_the_file_and_a_flag_overrides_both(toml: Path) -> None:
    overrides = ["measure.seconds=10", "threads=3", 'goal=["params<=0.6"]']
    config = load_config(toml, {"threads": 4, "goal": None}, overrides)
    assert config.measure == MeasureConfig(seconds=10.0)
    assert config.threads == 4
    assert config.goal == ("params<=0.6",)


def test_one_goal_or_target_needs_no_list() -> None:
    config = load_config(None, {"model": "m"}, ["goal=params<=0.6", "target=openvino", 'exclude="*.conv1"'])
    assert (config.goal, config.target, config.exclude) == (("params<=0.6",), ("openvino",), ("*.conv1",))


def test_a_wrong_value_of_an_override_is_not_blamed_on_the_file(toml: Path) -> None:
    with pytest.raises(UserInputError, match=r"^--set measure\.seconds: .*got -1"):
        load_config(toml, {}, ["measure.seconds=-1"])


def test_set_takes_text_without_quotes() -> None:
    assert load_config(None, {}, ["model=sample:resnet20"]).model == "sample:resnet20"


def test_flags_alone_are_enough() -> None:
    """The defaults of the contract: target cpu, fp32, kronexport-out."""
    config = load_config(None, {"model": "sample:resnet20"}, [])
    assert (config.target, config.precision, config.out) == (("cpu",), "fp32", Path("kronexport-out"))
    assert config.goal == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model = ", "not valid TOML"),
        ("modle = 'm'\nmodel = 'm'", r"modle: .*did you mean 'model'\? Known: model, weights"),
        (
            "model = 'm'\n[recipe]\nbatches = 1",
            r"recipe: batches: no such field; did you mean 'batch'\? Known: block_epochs",
        ),
        ("model = 'm'\n[recipe]\nbatch = 0", r"recipe: batch: got 0, expected a whole number of at least 1"),
        ("model = 'm'\n[recipe]\nema = 'slow'", r"recipe: ema: got 'slow', expected a decay"),
        ("model = 'm'\n[recipe]\nepochs = 5", r"recipe: epochs: is set by --epochs"),
        ("model = 'm'\n[measure]\nsecond = 1", r"measure\.second: .*did you mean 'seconds'\? Known: threads, seconds"),
        ("model = 'm'\n[measure]\nseconds = 0", r"measure\.seconds: .*greater than 0.*got 0"),
        ("model = 'm'\ntarget = 3", r"target: .*got 3"),
        ("model = 'm'\nprecision = 'fp64'", r"precision: .*'fp32'.*got 'fp64'"),
        ("weights = 'w.pt'", "no MODEL given; expected sample:NAME"),
    ],
)
def test_a_wrong_file_is_refused_by_its_key(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "build.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserInputError, match=message):
        load_config(file, {}, [])


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match=r"--config .*none\.toml: cannot be read: No such file"):
        load_config(tmp_path / "none.toml", {}, [])


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "b.toml").write_bytes(b"model = '\xff\xfe'")
    with pytest.raises(UserInputError, match=r"b\.toml: not valid TOML"):
        load_config(tmp_path / "b.toml", {}, [])


@pytest.mark.parametrize("override", ["measure.seconds", "=3", "model.x=1"])
def test_an_override_that_is_none_is_refused(override: str) -> None:
    with pytest.raises(UserInputError, match=f"--set '{override}'"):
        load_config(None, {}, ["model=sample:resnet20", override])


names = st.sampled_from(["cpu", "openvino", "jetson"])
configs = st.builds(
    BuildConfig,
    model=st.sampled_from(["sample:resnet20", "pkg.mod:factory", "/models/net.py:net"]),
    weights=st.none() | st.just(Path("/w.pt")),
    input=st.none() | st.just("image=2x3x8x8"),
    calibration=st.sampled_from([None, "/images", "pkg.mod:images", "/cal.py:images"]),
    mean=st.none() | st.just((0.5, 0.25, 0.125)),
    evaluate=st.none() | st.just("pkg.mod:accuracy"),
    target=st.lists(names, min_size=1).map(tuple),
    goal=st.lists(st.sampled_from(["macs<=0.5", "latency<=2ms"])).map(tuple),
    threads=st.none() | st.integers(1, 64),
    allow_unmeasured=st.booleans(),
    allow_fallback=st.booleans(),
    out=st.just(Path("/out")),
    measure=st.builds(MeasureConfig, seconds=st.floats(0.01, 1e3), rounds=st.integers(3, 100)),
)


@given(configs)
def test_what_is_written_reads_back_equal(config: BuildConfig) -> None:
    """config.toml in the output builds the same again."""
    assert _read_back(config) == config


def test_relative_paths_are_written_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Lest config.toml in the output, read from there, mean other files."""
    monkeypatch.chdir(tmp_path)
    given_: dict[str, Any] = {"model": "net.py:net", "weights": "w.pt", "calibration": "cal.py:images", "out": "out"}
    back = _read_back(load_config(None, given_, []))
    assert back.model == f"{tmp_path}/net.py:net"
    assert back.weights == tmp_path / "w.pt"
    assert back.calibration == f"{tmp_path}/cal.py:images"
    assert back.out == tmp_path / "out"


def test_a_colon_in_the_name_of_a_file_is_no_function(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images 10:30").mkdir()
    given_: dict[str, Any] = {"model": "m", "weights": "10:30/net.pt", "recover": "images 10:30", "out": "at 10:30"}
    back = _read_back(load_config(None, given_, []))
    assert (back.weights, back.out) == (tmp_path / "10:30" / "net.pt", tmp_path / "at 10:30")
    assert back.recover == str(tmp_path / "images 10:30")


def test_a_recipe_is_checked_with_the_epochs_that_it_is_for() -> None:
    recipe = {"block_epochs": 12}
    assert load_config(None, {"model": "m", "recover": "images", "epochs": 20}, ["recipe.block_epochs=12"]).epochs == 20
    with pytest.raises(UserInputError, match=r"block_epochs: got 12, expected at most epochs, which is 10"):
        load_config(None, {"model": "m", "recover": "images", "recipe": recipe}, [])


def test_whoever_builds_again_plans_again() -> None:
    """``--resume`` is of one run."""
    assert not _read_back(load_config(None, {"model": "m", "resume": True}, [])).resume


def _read_back(config: BuildConfig) -> BuildConfig:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "config.toml")
        file.write_text(config_toml(config), encoding="utf-8")
        return load_config(file, {}, [])


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("1.5h", 5400), ("0s", 0)])
def test_a_duration_has_a_unit(text: str, seconds: float) -> None:
    assert duration_seconds(text) == seconds
    assert load_config(None, {"model": "m", "time_budget": text}, []).time_budget == text


@pytest.mark.parametrize("text", ["90", "10 m", "-1s", "1d", "m", "1h30m", ""])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(UserInputError, match=r"--time-budget: .*expected a duration such as 90s, 10m or 1h"):
        load_config(None, {"model": "m", "time_budget": text}, [])


def test_a_flag_with_a_wrong_value_is_named_as_it_was_typed() -> None:
    with pytest.raises(UserInputError, match=r"^--epochs: .*greater than or equal to 1, got 0$"):
        load_config(None, {"model": "m", "epochs": 0}, ["measure.rounds=3"])


def test_a_board_is_an_address_of_ssh() -> None:
    config = load_config(None, {"model": "m", "device": "ssh://me@orin/"}, [])
    assert (config.device, config.device_python) == ("ssh://me@orin", "python3")
    with pytest.raises(UserInputError, match=r"--device 'orin': expected ssh://"):
        load_config(None, {"model": "m", "device": "orin"}, [])
