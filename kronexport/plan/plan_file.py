"""plan.toml: the plan as a file that people read, edit and give back (given.py checks it against the model)."""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError
from pydantic_core import ErrorDetails

from kronexport.errors import UserInputError
from kronexport.records import FactorShape, Plan, SitePlan, Structure
from kronexport.survey.imports import suggestion

VERSION: Final = 1
"""Of the file's form; another one is refused."""

STAYS_DENSE: Final = "dense"
"""The method of a site that is not factorized."""

_HEADER = """\
# A plan of kronexport: what becomes of each layer. Edit it and give it back: kronexport build MODEL --plan plan.toml
#
# Each [[site]] is one conv or linear layer by its module's name; a layer that is not here stays dense.
#   method    dense, or one of docs/methods.md, such as gkpd
#   factors   the slowest first; their sizes f, c, h, w multiply to the layer's weight F, C / groups, kh, kw
#   ranks     one for each letter in rank_axes, in alphabetical order
#   lowering  the form in which it runs; left out: the fastest is chosen
# basis and rel_error (||W - W^|| / ||W|| as it was planned) tell where the plan came from; a build does not use them.

"""

_LIST: Final = Field(strict=False)
"""TOML has lists, a frozen table tuples; what is in them stays strict."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class FactorTable(_Table):
    """One factor; ``size`` is f, c, h, w."""

    rank_axes: str
    size: Annotated[tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt], _LIST]


class SiteTable(_Table):
    """One ``[[site]]``. ``lowering`` None: to be chosen. ``rel_error`` is not used."""

    name: str
    method: str
    factors: Annotated[tuple[FactorTable, ...], _LIST] = ()
    ranks: Annotated[tuple[PositiveInt, ...], _LIST] = ()
    lowering: str | None = None
    rel_error: float | None = None

    @property
    def structure(self) -> Structure:
        """As the file has it, unchecked."""
        factors = tuple(FactorShape(factor.rank_axes, *factor.size) for factor in self.factors)
        return Structure(self.method, self.ranks, factors)


class PlanFile(_Table):
    """A whole file. ``basis`` is not used."""

    version: Literal[1]
    target: str
    basis: str | None = None
    site: Annotated[tuple[SiteTable, ...], _LIST] = ()


def plan_toml(plan: Plan) -> str:
    """One ``[[site]]`` table a site, in execution order, below a header that says how to edit it."""
    tables = [_table(site) for site in plan.sites]
    return _HEADER + tomli_w.dumps({"version": VERSION, "target": plan.target, "basis": plan.basis, "site": tables})


def read_plan_file(path: Path) -> PlanFile:
    """What a file says, whatever the model is.

    Raises:
        UserInputError: the file cannot be read, is no TOML or of another version, a key is unknown, missing or of
            the wrong kind, or a site is there twice.
    """
    place = f"--plan {path}"
    raw = _read_toml(path, place)
    if raw.get("version") != VERSION:
        came = f"got {raw['version']!r}" if "version" in raw else "missing key"
        raise UserInputError(
            f"{place}: version: {came}, expected {VERSION}; write the plan again with this version's kronexport plan"
        )
    try:
        file = PlanFile.model_validate(raw)
    except ValidationError as error:
        raise UserInputError(f"{place}: {_explained(error.errors(include_url=False)[0], raw)}") from error
    names = [table.name for table in file.site]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserInputError(f"{place}: site {twice}: is there {names.count(twice)} times, expected once; keep one")
    return file


def _table(choice: SitePlan) -> dict[str, Any]:
    if choice.structure is None:
        return {"name": choice.site, "method": STAYS_DENSE}
    error = {} if choice.rel_error is None else {"rel_error": round(choice.rel_error, 6)}
    return {
        "name": choice.site,
        "method": choice.structure.method,
        "factors": [{"rank_axes": factor.rank_axes, "size": list(factor.size)} for factor in choice.structure.factors],
        "ranks": list(choice.structure.ranks),
        "lowering": choice.lowering,
        **error,
    }


def _read_toml(path: Path, place: str) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserInputError(f"{place}: cannot be read: {error.strerror}; expected a plan.toml") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserInputError(f"{place}: not TOML: {error}; expected what kronexport plan --out writes") from error


def _explained(detail: ErrorDetails, raw: dict[str, Any]) -> str:
    """One complaint of pydantic as key, what came, what was expected; a site goes by its name."""
    location = list(detail["loc"])
    key = ".".join(map(str, location))
    if location[0] == "site" and len(location) > 1:
        table = raw["site"][location[1]]
        name = table.get("name", f"number {int(location[1]) + 1}") if isinstance(table, dict) else location[1]
        key = f"site {name}: {'.'.join(map(str, location[2:]))}".removesuffix(": ")
    if detail["type"] == "extra_forbidden":
        known = _keys_beside(location)
        return f"{key}: unknown key{suggestion(str(location[-1]), known)}"
    if detail["type"] == "missing":
        return f"{key}: missing key; every {_TITLES[_level(location)]} has one"
    return f"{key}: got {detail['input']!r}, expected: {detail['msg'].removeprefix('Input should be ')}"


_TITLES = ("plan", "site", "factor")
_TABLES: tuple[type[_Table], ...] = (PlanFile, SiteTable, FactorTable)


def _level(location: list[int | str]) -> int:
    """How many arrays of tables a key is in: 0, one of a site, one of a factor."""
    return sum(isinstance(part, int) for part in location[:-1])


def _keys_beside(location: list[int | str]) -> list[str]:
    return list(_TABLES[_level(location)].model_fields)
