"""Versions that do not fit are said in a sentence, with what is expected."""

from importlib.metadata import version

import pytest

from kronexport.farm.versions import misfit, of_scheduler, own_versions, python_release


def test_what_is_the_same_fits() -> None:
    assert misfit(own_versions(), "its worker") is None


@pytest.mark.parametrize("name", ["kronexport", "agent", "distributed", "python"])
def test_each_difference_is_named(name: str) -> None:
    reason = misfit({**own_versions(), name: "0.0"}, "its worker")
    assert reason is not None
    assert reason.startswith(f"its worker has {name} 0.0, expected {own_versions()[name]}; install the same versions")


def test_a_scheduler_needs_no_kronexport() -> None:
    """And a Python that differs in the last number is the same."""
    release = own_versions()["python"]
    told = {"packages": {"distributed": version("distributed")}, "host": {"python": f"{release}.99.final.0"}}
    assert misfit(of_scheduler(told), "the scheduler") is None
    assert python_release("3.12.1") == "3.12"
