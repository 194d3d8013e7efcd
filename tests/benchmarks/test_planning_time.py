"""A row of planning times: what is left when scan and forms are taken off, and what a second plan times anew."""

from benchmarks.planning_time import COLUMNS, Planned, row

COLD = Planned(layers=20, known=109, scan=74.2, measure=63.0, total=215.4)


def test_a_row_has_both_plans() -> None:
    cells = row("resnet18", "macs<=0.25", COLD, Planned(20, 109, 0.1, 0.0, 68.1))
    assert cells == ["resnet18", "`macs<=0.25`", "20", "109", "74", "63", "78", "215", "0", "0", "68", "68"]
    assert len(cells) == len(COLUMNS)


def test_forms_that_the_second_plan_timed_are_told() -> None:
    assert row("resnet18", "macs<=0.25", COLD, Planned(20, 124, 0.1, 8.0, 76.0))[3] == "109 + 15"
