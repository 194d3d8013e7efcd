"""plan.toml: what is written is read back, and what is no plan is refused by its place."""

from pathlib import Path

import pytest
from hypothesis import given

from kronexport.errors import UserInputError
from kronexport.plan.plan_file import plan_toml, read_plan_file
from kronexport.records import Plan, SitePlan, Structure
from tests.strategies import METHOD_STRUCTURES, structures

FACTORS = "factors = [{rank_axes = 'a', size = [6, 1, 1, 1]}, {rank_axes = 'a', size = [1, 6, 3, 3]}]"
CONV = f"[[site]]\nname = 'conv'\nmethod = 'gkpd'\n{FACTORS}\nranks = [2]\nlowering = 'grouped-2-1'\n"
HEAD = "version = 1\ntarget = 'cpu'\n"


def plan_of(structure: Structure) -> Plan:
    sites = SitePlan("a.0", structure, "grouped-1-2", 10, 100, 0.25), SitePlan("b", None, "dense", 20, 200, 0.0)
    return Plan("x86-onnxruntime", sites, "roofline")


def check_round_trip(structure: Structure, folder: Path) -> None:
    """Structures, lowerings and target of a written plan are those read."""
    plan = plan_of(structure)
    (folder / "plan.toml").write_text(plan_toml(plan), encoding="utf-8")
    read = read_plan_file(folder / "plan.toml")
    assert read.target == plan.target
    assert {table.name: table.structure for table in read.site if table.method != "dense"} == plan.structures
    assert {table.name: table.lowering for table in read.site if table.method != "dense"} == plan.forms
    assert [table.name for table in read.site] == ["a.0", "b"]


@pytest.mark.parametrize("structure", METHOD_STRUCTURES, ids=lambda structure: structure.method)
def test_every_method_is_read_back(structure: Structure, tmp_path: Path) -> None:
    check_round_trip(structure, tmp_path)


@given(structure=structures())
def test_every_structure_is_read_back(structure: Structure, tmp_path_factory: pytest.TempPathFactory) -> None:
    check_round_trip(structure, tmp_path_factory.getbasetemp())


def test_the_file_says_how_it_is_edited() -> None:
    text = plan_toml(plan_of(METHOD_STRUCTURES[0]))
    assert text.startswith("# A plan of kronexport")
    assert "kronexport build MODEL --plan plan.toml" in text
    for key in ("method", "factors", "ranks", "lowering", "basis", "rel_error"):
        assert key in text.partition("version = 1")[0]


def test_an_error_that_is_not_known_is_not_written() -> None:
    plan = Plan("t", (SitePlan("conv", METHOD_STRUCTURES[0], "grouped-1-2", 1, 1, None),), "given")
    assert "rel_error =" not in plan_toml(plan)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("conv: gkpd", ("not TOML", "kronexport plan --out writes")),
        ("target = 'cpu'\n", ("version: missing key, expected 1", "write the plan again")),
        ("version = 2\ntarget = 'cpu'\n", ("version: got 2, expected 1",)),
        ("version = 1\n", ("target: missing key; every plan has one",)),
        (f"{HEAD}taget = 'cpu'\n", ("taget: unknown key; did you mean 'target'?",)),
        (f"{HEAD}site = 5\n", ("site: got 5",)),
        (f"{HEAD}site = [5]\n", ("site 0: got 5",)),
        (HEAD + CONV + "rank = [2]\n", ("site conv: rank: unknown key; did you mean 'ranks'",)),
        (HEAD + CONV.replace("rank_axes = 'a', ", "", 1), ("site conv: factors.0.rank_axes: missing key",)),
        (HEAD + CONV.replace("rank_axes", "axes", 1), ("site conv: factors.0.",)),
        (HEAD + CONV.replace("[2]", "2"), ("site conv: ranks: got 2",)),
        (HEAD + CONV.replace("[2]", "[0]"), ("site conv: ranks.0: got 0, expected: greater than 0",)),
        (HEAD + CONV.replace("[2]", "[2.0]"), ("site conv: ranks.0: got 2.0",)),
        (HEAD + CONV.replace("[6, 1, 1, 1]", "[6, 1, 1]"), ("site conv: factors.0.size",)),
        (HEAD + CONV.replace("name = 'conv'", ""), ("site number 1: name: missing key; every site has one",)),
        (HEAD + CONV + CONV, ("site conv: is there 2 times, expected once; keep one",)),
    ],
)
def test_what_is_no_plan_is_refused(text: str, words: tuple[str, ...], tmp_path: Path) -> None:
    """With the file, the site by its name, what came and what was expected."""
    path = tmp_path / "plan.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserInputError) as caught:
        read_plan_file(path)
    assert str(caught.value).startswith(f"--plan {path}: ")
    for word in words:
        assert word in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match=r"none\.toml: cannot be read: No such file"):
        read_plan_file(tmp_path / "none.toml")
