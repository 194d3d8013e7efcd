"""What becomes of boards, told to other clients and to the reader."""

from collections.abc import Mapping
from typing import Any

import pytest

from kronexport.farm.calibration import Limits
from kronexport.farm.farm import Seen
from kronexport.farm.members import Member, Members
from kronexport.measure.race import Raced
from kronexport.records import LatencyStats


def member(name: str, reference_ms: float, **environment: Any) -> Member:
    seen = Seen(name, f"tcp://{name}", "cpu", name, {}, 0)
    stats = LatencyStats(1, *[reference_ms] * 7)
    return Member(
        seen, "ready", reference=Raced(stats, reference_ms, 1, 1.0), environment={"cpu_model": "a", **environment}
    )


def unknown(_environment: Mapping[str, Any]) -> float | None:
    return None


@pytest.fixture
def told() -> dict[str, Mapping[str, Any]]:
    return {}


@pytest.fixture
def members(told: dict[str, Mapping[str, Any]]) -> Members:
    return Members(Limits(), told.__setitem__)


def test_boards_are_ready_scaled_or_set_aside(members: Members, told: dict[str, Mapping[str, Any]]) -> None:
    members.judge([member("a", 1.0), member("b", 1.1), member("c", 2.0), member("d", 0.99)], unknown)
    assert {name: state["state"] for name, state in told.items()} == {
        "a": "ready",
        "b": "scaled",
        "c": "set aside",
        "d": "ready",
    }
    assert [one.seen.name for one in members.ready] == ["a", "b", "d"]
    assert members["b"].factor == pytest.approx(1 / 1.1)
    assert told["b"]["factor"] == pytest.approx(1 / 1.1)
    notes = "\n".join(members.notes)
    assert "b is scaled: its reference took 1.1 ms, the farm's 1 ms" in notes
    assert "c is set aside: its reference took 2 ms, +100 % from the farm's 1 ms (limit 25 %)" in notes


def test_the_kind_that_there_is_most_of_is_the_fleet(members: Members) -> None:
    found = [member("a", 1.0, cpu_model="b"), member("b", 1.0), member("c", 1.0), member("d", 1.0, power_mode="15W")]
    members.judge(found, unknown)
    assert [one.seen.name for one in members.ready] == ["b", "c"]
    assert "a is set aside: it is another board: cpu_model b, not a" in members.notes
    assert "d is set aside: it is another board: power_mode 15W, not None" in members.notes


def test_networks_are_timed_on_the_middle_board_as_long_as_it_is_there(members: Members) -> None:
    members.judge([member("a", 0.95), member("b", 1.0), member("c", 1.01)], unknown)
    assert members.home is not None
    assert members.home.seen.name == "b"
    members.leave("b", "lost", "gone")
    assert members.home.seen.name == "c"
    members.judge([member("e", 1.0)], unknown)
    assert members.home.seen.name == "c"
    for name in "ace":
        members.leave(name, "quarantined", "drifts")
    assert members.home is None


def test_a_board_that_comes_later_is_judged_by_the_first_ones(members: Members) -> None:
    members.judge([member("a", 1.0)], unknown)
    members.judge([member("b", 1.2), member("c", 1.2)], unknown)
    assert [one.state for one in members.ready] == ["ready", "scaled", "scaled"]


def test_the_unit_of_an_earlier_plan_is_asked_for_by_what_the_boards_are(members: Members) -> None:
    asked: list[Any] = []

    def known(environment: Mapping[str, Any]) -> float:
        asked.append(environment["cpu_model"])
        return 1.1

    members.judge([member("a", 1.0), member("b", 1.0)], known)
    assert asked == ["a"]
    assert members["a"].factor == pytest.approx(1.1)


def test_a_refused_board_is_told_of_and_gets_no_work(members: Members, told: dict[str, Mapping[str, Any]]) -> None:
    members.refuse(member("a", 1.0).seen, "set aside", "its worker has another version")
    assert "a" in members
    assert members.ready == []
    assert told["a"] == {
        "state": "set aside",
        "reason": "its worker has another version",
        "factor": 1.0,
        "reference_ms": None,
    }


def test_the_unit_of_boards_that_are_all_gone_is_not_that_of_another_kind(
    members: Members, told: dict[str, Mapping[str, Any]]
) -> None:
    """As where all workers were started again with another release of the runtime."""
    members.judge([member("old", 0.61, runtime_version="1")], unknown)
    members.leave("old", "lost", "gone")
    asked: list[Mapping[str, Any]] = []

    def known(environment: Mapping[str, Any]) -> float | None:
        asked.append(environment)
        return None

    members.judge([member("new", 0.7, runtime_version="2")], known)
    assert told["new"] == {"state": "ready", "reason": "", "factor": 1.0, "reference_ms": 0.7}
    assert [environment["runtime_version"] for environment in asked] == ["2"]
