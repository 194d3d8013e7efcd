"""What a row says of a build that was asked for half of the time."""

from benchmarks.latency_goals import NETWORKS, row
from kronexport.records import GoalResult, ModelFigures, Speedup, TargetReport
from kronexport.survey.model import load_model
from sample_models.registry import SAMPLES


def report(goal: GoalResult, speedup: Speedup) -> TargetReport:
    return TargetReport(
        precision="fp32",
        environment={},
        protocol={},
        skipped=(),
        pareto=(),
        unmeasured={},
        goals=(goal,),
        dense=ModelFigures(1000, 8000, 4000),
        compressed=ModelFigures(250, 1000, 1200),
        speedup=speedup,
        verification=(),
        layers=(),
    )


def test_a_row_has_ratios_of_compressed_to_dense() -> None:
    """The bounds of the latency are those of the speed-up, turned round."""
    target = report(GoalResult("latency<=0.5", 0.4, met=True), Speedup(2.5, (2.0, 4.0), "faster"))
    assert row("resnet18", target, 0, 61.4, 99.6) == [
        "resnet18",
        "0.250x",
        "0.125x",
        "0.300x",
        "0.400x (0.250 to 0.500)",
        "met",
        "faster",
        "61",
        "100",
        "0",
    ]


def test_a_missed_goal_is_a_row_too() -> None:
    target = report(GoalResult("latency<=0.5", 0.8, met=False), Speedup(1.25, (1.2, 1.3), "faster"))
    assert row("vgg11", target, 5, 1.0, 2.0)[4:] == ["0.800x (0.769 to 0.833)", "missed", "faster", "1", "2", "5"]


def test_every_network_can_be_named_to_the_command() -> None:
    """All are samples but one, which has the width that it is called by."""
    others = {name: network.model for name, network in NETWORKS.items() if name != "edsr64"}
    assert all(model == f"sample:{name}" and name in SAMPLES for name, model in others.items())
    state = load_model(NETWORKS["edsr64"].model, None).module.state_dict()
    assert state["body.0.body.0.weight"].shape == (64, 64, 3, 3)
