"""Time by stages, of a clock that a test turns."""

from benchmarks.stage_clock import REST, StageClock


def test_time_goes_to_the_stage_at_work() -> None:
    """What lies between a stage's end and the next one's first word is the rest."""
    times = iter([0.0, 1.0, 3.0, 6.0, 10.0])
    clock = StageClock(lambda: next(times))
    clock("scan", 0, 2)
    clock("scan", 2, 2)
    clock("plan", 0, 1)
    assert clock.total() == 10.0
    assert dict(clock.seconds) == {REST: 1.0 + 3.0, "scan": 2.0, "plan": 4.0}
    assert clock.started == {"scan": 1.0, "plan": 6.0}
