"""The resolved configuration of a build: flags and ``build.toml`` in one validated object."""

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Self

import tomli_w
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from kronexport.errors import UserInputError
from kronexport.farm.address import checked_address
from kronexport.machines.address import Address
from kronexport.plan.plan_file import read_plan_file
from kronexport.records import BatchRange, Precision, Ranges
from kronexport.recover.recipe import Recipe

_FILES = ("weights", "calibration", "recover", "plan", "out")
"""Keys that hold a path: a relative one resolves from the file that it stands in."""

_FUNCTIONS = ("model", "calibration", "evaluate", "recover")
"""Keys that may hold ``path/file.py:function``, whose path resolves alike; so does that of a ``file.pt2``."""


_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def duration_seconds(text: str) -> float:
    """Seconds of a duration such as ``90s``, ``2.5m`` or ``1h``.

    Raises:
        ValueError: it is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if found is None:
        raise ValueError("expected a duration such as 90s, 10m or 1h")
    return float(found[1]) * _SECONDS[found[2]]


def _checked_duration(text: str) -> str:
    duration_seconds(text)
    return text


Duration = Annotated[str, AfterValidator(_checked_duration)]
"""As the user wrote it."""


def _checked_device(text: str) -> str:
    return str(Address.parse(text))


Device = Annotated[str, AfterValidator(_checked_device)]


FarmAddress = Annotated[str, AfterValidator(checked_address)]
"""Of a scheduler, as the user wrote it."""


def _checked_batches(text: str) -> str:
    BatchRange.parse(text)
    return text


Batches = Annotated[str, AfterValidator(_checked_batches)]
"""As the user wrote it."""


def _checked_recipe(values: dict[str, Any]) -> dict[str, Any]:
    """Fields of a Recipe, but for those that other options set.

    Raises:
        UserInputError: a field is unknown.
    """
    known = [field.name for field in fields(Recipe) if field.name not in _OF_OTHER_OPTIONS]
    for name in values:
        if name in _OF_OTHER_OPTIONS:
            raise UserInputError(f"recipe: {name}: {_OF_OTHER_OPTIONS[name]}")
        if name not in known:
            raise UserInputError(f"recipe: {name}: no such field{_nearest(name, known)}")
    return values


_OF_OTHER_OPTIONS = {"epochs": "is set by --epochs", "stop_at": "follows from a goal on accuracy_drop"}

RecipeFields = Annotated[dict[str, Any], AfterValidator(_checked_recipe)]


class MeasureConfig(BaseModel):
    """``[measure]``: how long to time. ``threads`` overrides the target's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    threads: int | None = Field(None, ge=1, description="runtime threads; default: the target's")
    seconds: float = Field(5.0, gt=0, description="timed seconds for each network")
    rounds: int = Field(20, ge=3, description="interleaved rounds that the time is split into")
    warmup_seconds: float = Field(1.0, ge=0, description="untimed seconds before")


class BuildConfig(BaseModel):
    """What ``kronexport build`` was asked to do; the keys of ``build.toml`` and the flags have the same names."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(description="sample:NAME, pkg.mod:factory, path/file.py:factory or path/file.pt2")
    weights: Path | None = Field(None, description="state dict: .safetensors .pt .pth .th .npz")
    input: str | None = Field(None, description="[NAME=]1x3x224x224; samples bring their own")
    calibration: str | None = Field(None, description=".npy, .npz, folder of images or mod:function")
    mean: tuple[float, ...] | None = Field(None, description="of a folder of images, per channel, pixels in 0..1")
    std: tuple[float, ...] | None = Field(None, description="of a folder of images, per channel, pixels in 0..1")
    evaluate: str | None = Field(None, description="mod:function called with a predictor; returns one number")
    recover: str | None = Field(
        None, description="what to train on: as calibration, or mod:function, a loop of one's own"
    )
    epochs: int | None = Field(None, ge=1, description="of recover; default: 10")
    recipe: RecipeFields = Field({}, description="of the training of recover: fields of kronexport.Recipe")
    target: tuple[str, ...] = Field(("cpu",), min_length=1, description="targets or aliases")
    goal: tuple[str, ...] = Field((), description="NAME<=NUMBER[UNIT]")
    plan: Path | None = Field(None, description="plan.toml: structures, ranks and lowerings of its target")
    include: tuple[str, ...] = Field((), description="patterns of layers to factorize, linear ones too")
    exclude: tuple[str, ...] = Field((), description="patterns of site names to leave dense")
    precision: Precision = Field("fp32", description="what the engine computes in")
    int8_ranges: Ranges = Field("minmax", description="of activations in int8: minmax, entropy or percentile")
    dynamic_batch: Batches | None = Field(
        None, description="MIN:OPT:MAX samples; default: the batch of the input alone"
    )
    threads: int | None = Field(None, ge=1, description="runtime threads; default: the target's")
    time_budget: Duration | None = Field(None, description="for timing forms: 90s, 10m, 1h; default: no limit")
    device: Device | None = Field(None, description="the target itself: ssh://[user@]host[:port]")
    device_python: str = Field("python3", min_length=1, description="there, with numpy and the runtime")
    farm: FarmAddress | None = Field(None, description="boards that the targets are, tcp://scheduler:8786")
    allow_unmeasured: bool = Field(default=False, description="exit 0 where a goal cannot be measured")
    allow_fallback: bool = Field(default=False, description="let nodes be that run in another precision than asked")
    resume: bool = Field(default=False, description="go on with the plan and the training of an earlier run")
    out: Path = Field(Path("kronexport-out"), description="output folder")
    measure: MeasureConfig = MeasureConfig()

    @field_validator("target", "goal", "include", "exclude", mode="before")
    @classmethod
    def _one_is_several(cls, given: object) -> object:
        """One text needs no list around it."""
        return (given,) if isinstance(given, str) else given

    @model_validator(mode="after")
    def _check_recipe(self) -> Self:
        """Refuse a wrong value of the recipe before any work; fields of it depend on each other and on the epochs."""
        Recipe(**self.recipe | ({} if self.epochs is None else {"epochs": self.epochs}))
        return self

    @property
    def batches(self) -> BatchRange | None:
        """None where the batch is static."""
        return None if self.dynamic_batch is None else BatchRange.parse(self.dynamic_batch)


def load_config(file: Path | None, flags: Mapping[str, Any], overrides: Sequence[str]) -> BuildConfig:
    """Merge ``file`` < ``--set a.b=c`` < ``flags`` (those not None) and validate.

    Where a plan is named and no target, the plan's is the target.

    Raises:
        UserInputError: the file is missing or no TOML, a key is unknown, or a value is wrong; the same of its plan.
    """
    merged = {} if file is None else _read(file)
    for override in overrides:
        _apply(merged, override)
    merged.update({key.replace("_", "-"): value for key, value in flags.items() if value is not None})
    if "model" not in merged:
        raise UserInputError(
            "build: no MODEL given; expected sample:NAME, pkg.mod:factory, path/file.py:factory or file.pt2"
        )
    try:
        config = BuildConfig.model_validate({key.replace("-", "_"): value for key, value in merged.items()})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        hint = _known_keys(first["loc"]) if first["type"] == "extra_forbidden" else ""
        if flags.get(str(first["loc"][0])) is not None:
            source = f"--{where.replace('_', '-')}"
        elif any(override.partition("=")[0].replace("-", "_") == where for override in overrides):
            source = f"--set {where}"
        else:
            source = f"{file or 'configuration'}: {where}"
        raise UserInputError(f"{source}: {first['msg']}, got {first['input']!r}{hint}") from error
    if config.plan is None or "target" in config.model_fields_set:
        return config
    return config.model_copy(update={"target": (read_plan_file(config.plan).target,)})


def config_toml(config: BuildConfig) -> str:
    """The resolved configuration as TOML that ``--config`` reads back from any folder: its paths are absolute.

    Keys without a value are left out, and so is ``resume``: whoever builds again wants it anew.
    """
    data = _from_folder(config.model_dump(mode="json", exclude_none=True, exclude={"resume"}), Path.cwd())
    return tomli_w.dumps({key.replace("_", "-"): value for key, value in data.items()})


def _read(file: Path) -> dict[str, Any]:
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserInputError(f"--config {file}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserInputError(f"--config {file}: not valid TOML: {error}") from error
    return _from_folder(data, file.parent)


def _from_folder(data: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """``data`` with its relative paths taken from ``folder``; samples and dotted modules stay as they are."""
    resolved = dict(data)
    for key in data.keys() & {*_FILES, *_FUNCTIONS}:
        source, colon, function = str(data[key]).rpartition(":")
        path = folder / Path(str(data[key])).expanduser()
        is_function = key in _FUNCTIONS and bool(colon) and not path.exists()
        if is_function and source.endswith(".py"):
            resolved[key] = f"{folder / Path(source).expanduser()}:{function}"
        elif isinstance(data[key], str) and (key in _FILES or data[key].endswith(".pt2")) and not is_function:
            resolved[key] = str(path)
    return resolved


def _known_keys(location: tuple[int | str, ...]) -> str:
    """What may stand beside an unknown key; those of ``[measure]`` for one in it."""
    table = MeasureConfig if len(location) > 1 else BuildConfig
    known = [name if len(location) > 1 else name.replace("_", "-") for name in table.model_fields]
    return _nearest(str(location[-1]).replace("_", "-"), known)


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"; {hint}Known: {', '.join(known)}"


def _apply(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserInputError(f"--set {override!r}: expected KEY=VALUE, for example measure.seconds=10")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, last = key.split(".")
    for parent in parents:
        data = data.setdefault(parent, {})
        if not isinstance(data, dict):
            raise UserInputError(f"--set {override!r}: {parent!r} is a value, not a table")
    data[last] = value
