"""Targets: one TOML file a device, validated into a frozen ``TargetProfile`` (docs/add-a-target.md).

A target's name is that of its file. A user gives the name or an alias, with an optional variant: ``jetson@jp6.2``.
A variant is a table of the keys in which another release of the device's software differs from the file.
"""

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator
from pydantic_core import ErrorDetails

from kronexport.errors import KronexportError, UserInputError

BackendName = Literal["onnxruntime", "openvino", "tensorrt"]
Precision = Literal["fp32", "fp16", "int8"]
Route = Literal["float-onnx", "fp16-onnx", "fp16-flag", "qdq-symmetric", "qdq-unsigned", "qdq-nncf"]
"""How a runtime is brought to a precision; docs/add-a-target.md explains each."""

IR_VERSION_OF_OPSET: Final = {13: 7, 17: 8, 18: 8, 19: 9, 20: 9}
"""The IR version of the ONNX release that brought an opset: a runtime that reads the one reads the other."""

_FIXED_IN_VARIANTS: Final = frozenset({"name", "aliases", "backend", "variant", "variants"})
_TOML_LIST: Final = Field(strict=False)
"""TOML has lists, a frozen profile tuples; what is in them stays strict."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class RuntimeRule(_Strict):
    """Which releases of the runtime serve the target. ``package`` is its name on PyPI, where it has one."""

    package: str
    version: Annotated[str, Field(pattern=r"^\d+(\.\d+)*$")]
    rule: Literal["minimum", "exact"]

    def allows(self, version: str) -> bool:
        """Whether ``version`` serves; what follows its numbers (``-22982-e213a147257``) does not count.

        "exact" compares as many numbers as the rule has: 8.6.2 allows 8.6.2.3.
        """
        got, wanted = _numbers(version), _numbers(self.version)
        got += (0,) * (len(wanted) - len(got))  # 1.23 is 1.23.0
        return got >= wanted if self.rule == "minimum" else got[: len(wanted)] == wanted


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Roofline(_Strict):
    """What ranks lowerings where nothing was measured, for the profile's threads; never reported as a figure.

    ``peak_gmacs``: 1e9 multiply-accumulates a second in fp32. ``bandwidth_gbs``: 1e9 bytes a second. ``launch_us``:
    fixed microseconds a node.
    """

    peak_gmacs: Positive
    bandwidth_gbs: Positive
    launch_us: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Board(_Strict):
    """The device that a TensorRT engine is built on.

    ``workspace_mib``: the scratch memory that the builder may use.
    """

    jetpack: str
    python: str
    cuda: str
    sm: Annotated[str, Field(pattern=r"^\d+\.\d$")]
    workspace_mib: PositiveInt


class Fact(_Strict):
    """Where a value of the profile comes from; ``unverified`` says what nobody has checked."""

    value: str
    source: str
    unverified: str | None = None


class TargetProfile(_Strict):
    """A device with its runtime: what may be written for it, and what is known of it.

    ``measured_here``: the target is whatever machine builds for it, so that what is measured there is its own; a device
    of its own is never measured elsewhere. ``opset`` and ``ir_version`` are the highest that the runtime reads.
    ``precisions`` are those that are built; ``routes`` says of every precision how device and runtime are brought to
    it, the preferred way first, and is empty where they have no such arithmetic. Ranks and channels per group in
    multiples of ``rank_multiple`` fill the device's lanes. ``tolerances``: largest relative L2 error from one stage to
    the next, for each of ``precisions``. ``machine``: values of ``platform.machine()``, None for any.
    ``compatible``: the chips that the device may have, as /proc/device-tree/compatible names them, none for any.
    ``memory_gb``: of the device that ``description`` names, the least that it is sold with; None where its makers are
    many. ``power_mode``: the one that the roofline is of, None where none is chosen. ``facts`` gives the source of
    other keys. ``variant`` names the variant that these values are of; None where there is but one.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*(@[a-z0-9.-]+)?$")]
    description: str
    aliases: Annotated[tuple[str, ...], _TOML_LIST] = ()
    backend: BackendName
    measured_here: bool = False
    opset: int
    ir_version: int
    precisions: Annotated[tuple[Precision, ...], Field(strict=False, min_length=1)]
    routes: dict[Precision, Annotated[tuple[Route, ...], _TOML_LIST]]
    threads: PositiveInt
    rank_multiple: PositiveInt
    tolerances: dict[Precision, Positive]
    machine: Annotated[tuple[str, ...] | None, _TOML_LIST] = None
    compatible: Annotated[tuple[Annotated[str, Field(pattern=r"^[a-z0-9,.-]+$")], ...], _TOML_LIST] = ()
    memory_gb: Positive | None = None
    power_mode: str | None = None
    roofline: Roofline
    runtime: RuntimeRule
    board: Board | None = None
    facts: dict[str, Fact] = Field(default_factory=dict)
    variant: str | None = None
    variants: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _has_its_board(self) -> Self:
        if (self.backend == "tensorrt") != (self.board is not None):
            raise ValueError("board: expected with backend tensorrt, and with no other")
        if self.board is not None and len(self.compatible) != 1:
            raise ValueError(f"compatible: got {list(self.compatible)}, expected the one chip of board.sm")
        if self.measured_here and self.board is not None:
            raise ValueError("measured_here: got true, expected false: the engine is built on the board")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        expected_ir = IR_VERSION_OF_OPSET.get(self.opset)
        if expected_ir is None:
            raise ValueError(f"opset: got {self.opset}, expected one of {sorted(IR_VERSION_OF_OPSET)}")
        if self.ir_version != expected_ir:
            raise ValueError(f"ir_version: got {self.ir_version}, expected {expected_ir}: that of opset {self.opset}")
        if set(self.tolerances) != set(self.precisions):
            raise ValueError(f"tolerances: got {sorted(self.tolerances)}, expected one a precision: {self.precisions}")
        if set(self.routes) != set(get_args(Precision)):
            raise ValueError(f"routes: got {sorted(self.routes)}, expected all of {sorted(get_args(Precision))}")
        if without := [precision for precision in self.precisions if not self.routes[precision]]:
            raise ValueError(f"routes.{without[0]}: got none, expected one: precisions names {without[0]}")
        known = _keys_with_facts()
        if unknown := sorted(set(self.facts) - known):
            raise ValueError(f"facts.{unknown[0]}: no such key{_did_you_mean(unknown[0], known)}")
        if self.variants and self.variant is None:
            raise ValueError("variant: missing, expected the name of the variant that the file itself describes")
        return self


def required_board(profile: TargetProfile) -> Board:
    """The device that the target's engine is built on; KronexportError of a target that has none."""
    if profile.board is None:
        raise KronexportError(f"{profile.name}: backend {profile.backend} has no board; expected one of tensorrt")
    return profile.board


_TABLES: Final[dict[str, type[BaseModel]]] = {"roofline": Roofline, "runtime": RuntimeRule, "board": Board}


def targets_folder() -> Path:
    """Where the TOML files that come with kronexport are: in its package if installed, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "targets"
    return installed if installed.is_dir() else package.parent / "targets"


def list_targets(folder: Path | None = None) -> list[TargetProfile]:
    """All targets by name, each in the variant that its file describes.

    Args:
        folder: Where the TOML files are; None: those that come with kronexport.

    Raises:
        UserInputError: A file isn't TOML, has an unknown key or a wrong value; says which, and what is expected.
    """
    return [profiles[""] for profiles in _read_folder(folder)]


def load_target(name: str, folder: Path | None = None) -> TargetProfile:
    """The profile that a target's name or alias, with an optional ``@VARIANT``, resolves to.

    The variant that a file describes itself (``jetson-orin-nano@jp6.0``) resolves to the plain name; any other
    becomes part of the name.

    Args:
        name: Such as ``x86-onnxruntime``, ``cpu`` or ``jetson@jp6.2``.
        folder: As in ``list_targets``.

    Raises:
        UserInputError: No such target or variant (names the nearest and all there are), or a file is wrong.
    """
    plain, at, variant = name.partition("@")
    files = _read_folder(folder)
    found = {alias: profiles for profiles in files for alias in (profiles[""].name, *profiles[""].aliases)}
    if plain not in found:
        raise UserInputError(
            f"target {name!r}: no such target{_did_you_mean(plain, found)}; "
            f"use one of {', '.join(profiles[''].name for profiles in files)}, or an alias: kronexport targets list"
        )
    profiles = found[plain]
    if at and (not variant or variant not in profiles):
        known = [*filter(None, profiles)]
        has = f"has {', '.join(known)}" if known else "has none"
        raise UserInputError(
            f"target {name!r}: no such variant{_did_you_mean(variant, known)}; {profiles[''].name} {has}"
        )
    return profiles[variant]


def _read_folder(folder: Path | None) -> list[dict[str, TargetProfile]]:
    paths = sorted((targets_folder() if folder is None else folder).glob("*.toml"))
    files = [_read_file(path) for path in paths]
    named: dict[str, Path] = {}
    for path, profiles in zip(paths, files, strict=True):
        for name in (profiles[""].name, *profiles[""].aliases):
            if name in named:
                raise UserInputError(f"{path}: {name!r} is a name or an alias in {named[name]}, too; give another")
            named[name] = path
    return files


def _read_file(path: Path) -> dict[str, TargetProfile]:
    """The profile of each variant in one file; the one that the file itself describes has the key "" too."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserInputError(f"{path}: not TOML: {error}; expected the form of the other targets") from error
    base = _validated(raw, str(path))
    if base.name != path.stem:
        raise UserInputError(f"{path}: name: got {base.name!r}, expected {path.stem!r}, as the file")
    profiles = {"": base}
    if base.variant is not None:
        profiles[base.variant] = base
    for variant, overrides in base.variants.items():
        profiles[variant] = _with_overrides(raw, variant, overrides, f"{path}: variants.{variant}")
    return profiles


def _with_overrides(raw: Mapping[str, Any], variant: str, overrides: Mapping[str, Any], place: str) -> TargetProfile:
    """The file's values with a variant's in their place; a table is overridden key by key."""
    fixed = sorted(_FIXED_IN_VARIANTS & set(overrides))
    if fixed:
        raise UserInputError(f"{place}: {fixed[0]}: a variant cannot have its own; write another target file instead")
    merged = {**raw, "name": f"{raw['name']}@{variant}", "variant": variant}
    for key, value in overrides.items():
        tables = isinstance(value, dict) and isinstance(raw.get(key), dict)
        merged[key] = {**raw[key], **value} if tables else value
    return _validated(merged, place)


def _validated(raw: Mapping[str, Any], place: str) -> TargetProfile:
    try:
        return TargetProfile.model_validate(raw)
    except ValidationError as error:
        raise UserInputError(f"{place}: " + "; ".join(map(_explained, error.errors(include_url=False)))) from error


def _explained(detail: ErrorDetails) -> str:
    """One complaint of pydantic as key, what came, what was expected."""
    key = ".".join(map(str, detail["loc"]))
    if detail["type"] == "extra_forbidden":
        known = _keys_beside(detail["loc"])
        return f"{key}: unknown key{_did_you_mean(str(detail['loc'][-1]), known)}; expected {', '.join(known)}"
    if detail["type"] == "missing":
        return f"{key}: missing key"
    if detail["type"] == "value_error":
        return detail["msg"].removeprefix("Value error, ")
    return f"{key}: got {detail['input']!r}, expected: {detail['msg']}"


def _keys_beside(location: tuple[int | str, ...]) -> list[str]:
    """The keys that the table around an unknown key may have."""
    tables: dict[str, type[BaseModel]] = {**_TABLES, "facts": Fact}
    model = tables[str(location[0])] if len(location) > 1 else TargetProfile
    return list(model.model_fields)


def _keys_with_facts() -> set[str]:
    """The keys that a fact may be of; those of a table with its name, such as ``roofline.launch_us``."""
    keys = {f"{table}.{key}" for table, model in _TABLES.items() for key in model.model_fields}
    keys |= {f"{table}.{precision}" for table in ("routes", "tolerances") for precision in get_args(Precision)}
    return keys | (set(TargetProfile.model_fields) - {*_TABLES, "routes", "tolerances"})


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _numbers(version: str) -> tuple[int, ...]:
    """(8, 6, 2) of "8.6.2-1+cuda12"; empty if it does not begin with a number."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found.group().split("."))) if found else ()
