"""Plans that an earlier run made are taken where that is asked for, and nowhere else."""

import logging
from pathlib import Path

import pytest

from kronexport import cache
from kronexport.factorize.gkpd import gkpd_structure
from kronexport.plan.kept import NOTE, KeptPlans
from kronexport.records import ParetoPoint, Plan, SitePlan

STRUCTURE = gkpd_structure((16, 16, 3, 1), (4, 4, 1, 3), 2)
PLAN = Plan(
    "x86-onnxruntime",
    (
        SitePlan("conv", STRUCTURE, "grouped-2-1", 10, 20, 0.1, (1,), dense_seconds=2e-3, seconds=1e-3),
        SitePlan("other", None, "dense", 5, 6, 0.0, reason="it saves no time"),
    ),
    "measured",
    ("fitted",),
    (ParetoPoint(None, 0.5, 0.25, 0.1, "mixed", chosen=True),),
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KRONEXPORT_CACHE", str(tmp_path))
    return tmp_path


def never() -> Plan:
    raise AssertionError("planned again")


def other() -> Plan:
    return Plan("x86-onnxruntime", (), "measured")


def test_a_plan_comes_back_as_it_was_and_says_so() -> None:
    assert KeptPlans("here").plan_of("cpu", b"half", lambda: PLAN) is PLAN
    kept = KeptPlans("here", resumes=True).plan_of("cpu", b"half", never)
    assert (kept, kept.notes, kept.pareto) == (PLAN, ("fitted", NOTE), PLAN.pareto)
    for found, wanted in zip(kept.sites, PLAN.sites, strict=True):
        assert (found.seconds, found.dense_seconds, found.reason) == (
            wanted.seconds,
            wanted.dense_seconds,
            wanted.reason,
        )


def test_without_being_asked_for_it_is_made_again() -> None:
    KeptPlans("here").plan_of("cpu", b"half", lambda: PLAN)
    assert KeptPlans("here").plan_of("cpu", b"half", other) == other()


@pytest.mark.parametrize(("conditions", "question"), [("there", b"half"), ("here", b"a quarter")])
def test_what_differs_has_a_plan_of_its_own(conditions: str, question: bytes, caplog: pytest.LogCaptureFixture) -> None:
    KeptPlans("here").plan_of("cpu", b"half", lambda: PLAN)
    with caplog.at_level(logging.WARNING, "kronexport"):
        assert KeptPlans(conditions, resumes=True).plan_of("cpu", question, other) == other()
    assert "--resume: cpu: no plan of an earlier run of this command is kept; it is planned now" in caplog.text


def test_other_code_plans_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    KeptPlans("here").plan_of("cpu", b"half", lambda: PLAN)
    monkeypatch.setattr("kronexport.plan.kept.code_key", lambda: b"other code")
    assert KeptPlans("here", resumes=True).plan_of("cpu", b"half", other) == other()


def test_a_damaged_file_is_planned_anew(folder: Path) -> None:
    KeptPlans("here").plan_of("cpu", b"half", lambda: PLAN)
    (file,) = (folder / "plan").iterdir()
    file.write_bytes(file.read_bytes()[:50])
    assert KeptPlans("here", resumes=True).plan_of("cpu", b"half", lambda: PLAN) is PLAN
    assert KeptPlans("here", resumes=True).plan_of("cpu", b"half", never) == PLAN
    assert cache.cache_use().files == 1
