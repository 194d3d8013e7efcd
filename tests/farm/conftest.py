"""One scheduler for all tests of farms; workers are those of each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kronexport.farm.farm import Farm
from tests.farm.crew import Crew, scheduler


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with scheduler(tmp_path_factory.mktemp("scheduler")) as found:
        yield found


@pytest.fixture
def farm(address: str) -> Iterator[Farm]:
    with Farm(address) as opened:
        yield opened


@pytest.fixture(scope="session")
def staff(address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crew]:
    """Three scripted boards that serve all tests, as fast as each other before each."""
    crew = Crew(address, tmp_path_factory.mktemp("staff"))
    crew.hire(count=3)
    yield crew
    crew.dismiss()


@pytest.fixture
def crew(staff: Crew) -> Iterator[Crew]:
    """The staff, and whom a test hires besides."""
    for hand in staff.hands:
        hand.becomes()
    staff.forget()
    usual = list(staff.hands)
    yield staff
    extra = Crew(staff.address, staff.folder, [hand for hand in staff.hands if hand not in usual])
    extra.dismiss()
    staff.hands[:] = usual


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own: nothing is known, and what is learnt is gone with it."""
    monkeypatch.setenv("KRONEXPORT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
