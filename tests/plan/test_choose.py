"""The planner: candidates that are worth having, and the best choice among them."""

import itertools
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kronexport.backends.profile import TargetProfile, load_target
from kronexport.errors import GoalError
from kronexport.factorize.decompose import decompose
from kronexport.factorize.gkpd import gkpd_structure
from kronexport.factorize.network import relative_error
from kronexport.factorize.scan import ErrorScan
from kronexport.lower.forms import generate_forms
from kronexport.plan import candidates
from kronexport.plan.candidates import Candidate, all_candidates
from kronexport.plan.choose import Steering, choose, dense_plan, make_plan, solve
from kronexport.plan.cost_model import CostModel, roofline_model
from kronexport.plan.goals import parse_goal
from kronexport.plan.plan_file import plan_toml
from kronexport.plan.roofline import form_seconds
from kronexport.records import ConvGeometry, Site, Survey

GEOMETRY = ConvGeometry((3, 3), (1, 1), (1, 1, 1, 1))
PAIR = gkpd_structure((64, 1, 1, 1), (1, 64, 3, 3), 1)


def quiet(_stage: str, _done: int, _total: int) -> None:
    """No progress."""


def site(name: str, filters: int, channels: int, batch: int = 1, group: int = 1) -> Site:
    weight = filters * channels // group * 9
    return Site(
        name=name,
        batch=batch,
        in_channels=channels,
        out_channels=filters,
        geometry=replace(GEOMETRY, group=group),
        input_size=(14, 14),
        output_size=(14, 14),
        has_bias=False,
        params=weight,
        macs=batch * weight * 14 * 14,
        share=0.5,
    )


@pytest.fixture(scope="module")
def profile() -> TargetProfile:
    return load_target("cpu")


@pytest.fixture(scope="module")
def survey() -> Survey:
    sites = site("wide", 64, 64), site("narrow", 32, 48)
    extra = 1000
    return Survey(sites, (), sum(s.params for s in sites) + extra, sum(s.macs for s in sites) + extra)


@pytest.fixture(scope="module")
def weights(survey: Survey) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {s.name: generator.standard_normal((s.out_channels, s.in_channels, 3, 3)) for s in survey.sites}


def test_goals_are_met_by_the_plan(survey: Survey, weights: dict[str, np.ndarray], profile: TargetProfile) -> None:
    """Params and MACs of the whole network, other layers included, stay within every goal."""
    goals = [parse_goal("params<=0.5"), parse_goal("macs<=0.6")]
    plan = make_plan(survey, ErrorScan(weights), goals, profile, quiet)
    for name, limit in (("params", 0.5), ("macs", 0.6)):
        total = sum(getattr(choice, name) for choice in plan.sites) + 1000
        assert total <= limit * getattr(survey, name)
        assert total >= 0.8 * limit * getattr(survey, name) or name == "macs"


def test_a_plan_says_what_its_structure_costs(
    survey: Survey, weights: dict[str, np.ndarray], profile: TargetProfile
) -> None:
    """MACs are those of the named form; the error is that of the factors, or a little above it, as the scan has it."""
    plan = make_plan(survey, ErrorScan(weights), [parse_goal("macs<=0.5")], profile, quiet)
    chosen = [(s, c) for s, c in zip(survey.sites, plan.sites, strict=True) if c.structure]
    assert chosen
    for place, choice in chosen:
        assert choice.structure is not None
        forms = {form.name: form for form in generate_forms(choice.structure, GEOMETRY, place.input_size)}
        assert forms[choice.lowering].macs == choice.macs
        assert form_seconds(forms[choice.lowering], profile) < form_seconds(forms["dense"], profile)
        reached = relative_error(weights[place.name], decompose(weights[place.name], choice.structure).to_dense())
        assert reached - 2e-3 <= (choice.rel_error or 0) <= 1.3 * reached + 2e-3


def test_without_pressure_everything_stays_dense(
    survey: Survey, weights: dict[str, np.ndarray], profile: TargetProfile
) -> None:
    """A budget that dense meets costs no accuracy."""
    assert make_plan(survey, ErrorScan(weights), [parse_goal("params<=1")], profile, quiet) == dense_plan(
        survey, profile
    )


def test_an_unreachable_goal_is_refused_with_the_reachable(
    survey: Survey, weights: dict[str, np.ndarray], profile: TargetProfile
) -> None:
    """GoalError, before any work on the network."""
    with pytest.raises(GoalError, match="cannot be met: the least"):
        make_plan(survey, ErrorScan(weights), [parse_goal("params<=1e-6")], profile, quiet)


def test_the_batch_counts(profile: TargetProfile) -> None:
    """MACs of a candidate are those of all samples in the batch, as the dense site's are."""
    four = site("s", 32, 32, batch=4)
    weight = {"s": np.random.default_rng(0).standard_normal((32, 32, 3, 3))}
    dense, *others = all_candidates([four], ErrorScan(weight), roofline_model(profile), quiet)[0]
    assert dense.macs == 4 * 32 * 32 * 9 * 14 * 14
    assert others
    for option in others:
        assert option.structure is not None
        forms = {form.name: form for form in generate_forms(option.structure, GEOMETRY, four.input_size)}
        assert option.macs == 4 * forms[option.lowering].macs
        assert option.seconds == form_seconds(forms[option.lowering], profile, 4)


@pytest.mark.parametrize("group", [2, 32])
def test_a_grouped_site_gets_structures_whose_first_factor_says_the_group(profile: TargetProfile, group: int) -> None:
    """Each costs what its form does, and less than the grouped conv that it stands for."""
    place = site("s", 64, 64 * group, group=group)
    weight = np.random.default_rng(0).standard_normal(place.weight_shape)
    (options,) = all_candidates([place], ErrorScan({"s": weight}), roofline_model(profile), quiet)
    assert options[0].seconds == form_seconds(generate_forms(PAIR, place.geometry, place.input_size)[0], profile)
    assert len(options) > 1
    for option in options[1:]:
        assert option.structure is not None
        assert option.structure.factors[0].f % group == 0
        forms = {form.name: form for form in generate_forms(option.structure, place.geometry, place.input_size)}
        assert (option.macs, option.weights) == (forms[option.lowering].macs, forms[option.lowering].weights)
        assert option.params < place.params
        assert option.macs < place.macs == forms["dense"].macs


def test_candidates_are_kept_for_the_next_time(
    profile: TargetProfile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one site under one model; a file that is damaged is made anew."""
    monkeypatch.setenv("KRONEXPORT_CACHE", str(tmp_path))
    weight = np.random.default_rng(0).standard_normal((32, 32, 3, 3))

    def found(model: CostModel, name: str = "s") -> list[Candidate]:
        (options,) = all_candidates([site(name, 32, 32)], ErrorScan({name: weight}), model, quiet)
        return options

    first, made = found(roofline_model(profile)), [*tmp_path.glob("candidates/*.json")]
    assert len(made) == 1
    with monkeypatch.context() as patch:
        patch.setattr(candidates, "_costs", None)
        assert found(roofline_model(profile)) == first
        assert found(roofline_model(profile), "another") == first
        with pytest.raises(TypeError):
            found(replace(roofline_model(profile), key=b"another"))
    made[0].write_text(made[0].read_text(encoding="utf-8")[:-9], encoding="utf-8")
    assert found(roofline_model(profile)) == first
    assert found(roofline_model(profile)) == first


def test_candidates_are_a_pareto_front(survey: Survey, weights: dict[str, np.ndarray], profile: TargetProfile) -> None:
    """Dense is among those that pay, and none is beaten by another of its kind in params, MACs and error at once."""
    for options in all_candidates(survey.sites, ErrorScan(weights), roofline_model(profile), quiet):
        assert sum(option.structure is None for option in options) == 1
        assert options[0].structure is None
        for pays in (True, False):
            kept = [c for c in options[1:] if c.pays is pays]
            costs = np.array([(c.params, c.macs, c.weights, c.seconds, c.squared_error) for c in kept])
            for cost in costs:
                assert not np.any(np.all(costs <= cost, axis=1) & np.any(costs < cost, axis=1))


def test_the_choice_is_the_best_there_is() -> None:
    """Equal to brute force over every combination of a small random problem."""
    generator = np.random.default_rng(3)
    table = [
        [
            Candidate(None, "dense", int(p), int(m), 1, float(e), 0.0, pays=True)
            for p, m, e in zip(*generator.integers(1, 50, (2, 5)), generator.random(5), strict=True)
        ]
        for _ in range(4)
    ]
    limits = {"params": 70.0, "macs": 80.0}
    feasible = [
        picks
        for picks in itertools.product(*table)
        if sum(c.params for c in picks) <= limits["params"] and sum(c.macs for c in picks) <= limits["macs"]
    ]
    best = min(sum(c.cubed_error for c in picks) for picks in feasible)
    chosen = solve(table, limits)
    assert sum(c.params for c in chosen) <= limits["params"]
    assert sum(c.macs for c in chosen) <= limits["macs"]
    assert sum(c.cubed_error for c in chosen) == pytest.approx(best)


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-6])
@pytest.mark.parametrize("minimize", ["seconds", "cubed_error"])
def test_the_choice_is_the_best_at_any_scale(minimize: str, scale: float) -> None:
    """Layers of microseconds, and errors of which one alone is large, as if they were seconds and all alike."""
    for seed in range(10):
        generator = np.random.default_rng(seed)
        table = [
            [
                Candidate(None, "dense", int(p), int(m), 1, float(e), float(s), pays=True)
                for p, m, e, s in zip(
                    *generator.integers(1, 50, (2, 5)),
                    [1.0, *(scale * generator.random(4))],
                    scale * (0.1 + generator.random(5)),
                    strict=True,
                )
            ]
            for _ in range(4)
        ]
        limits = {"params": 90.0, "macs": 100.0}
        best = min(
            sum(getattr(c, minimize) for c in picks)
            for picks in itertools.product(*table)
            if all(sum(getattr(c, name) for c in picks) <= limit for name, limit in limits.items())
        )
        assert sum(getattr(c, minimize) for c in solve(table, limits, minimize)) == pytest.approx(best, rel=1e-4, abs=0)


def test_goals_that_exclude_each_other_are_refused() -> None:
    """Each limit can be met, both together cannot: the message says what the others leave of each."""
    dense = site("conv", 16, 16)
    one = Survey((dense,), (), dense.params + 1000, dense.macs + 1000)
    options = [
        Candidate(None, "dense", dense.params, dense.macs, 1, 0.0, 0.0, pays=True),
        *(Candidate(PAIR, "grouped-1-2", p, m, 1, 0.1, 0.0, pays=True) for p, m in ((10, 10_000), (1000, 100))),
    ]
    goals = [parse_goal("params<=1.5k"), parse_goal("macs<=1.5k")]
    with pytest.raises(GoalError, match=r"not together.* params 2000 .* macs 1.1e\+04 .*loosen"):
        choose(one, [options], goals)


def test_three_goals_of_which_no_two_can_be_met_are_refused() -> None:
    """The message says what each reaches alone."""
    dense = site("conv", 16, 16)
    one = Survey((dense,), (), dense.params + 1000, dense.macs + 1000)
    costs = ((10, 100_000, 1500), (1000, 100, 1500), (1000, 100_000, 10))
    options = [
        Candidate(None, "dense", dense.params, dense.macs, dense.params, 0.0, 0.0, pays=True),
        *(Candidate(PAIR, "grouped-1-2", p, m, w, 0.1, 0.0, pays=True) for p, m, w in costs),
    ]
    goals = [parse_goal(text) for text in ("params<=1.5k", "macs<=1.5k", "size<=6kB")]
    alone = r"params 1010 \(0\.306 of dense\), macs 1100 \(0\.002 of dense\), size 0\.306 of dense"
    with pytest.raises(GoalError, match=rf"no two of them together.* is {alone}; loosen two"):
        choose(one, [options], goals)


def test_the_plan_file_names_every_site(survey: Survey, weights: dict[str, np.ndarray], profile: TargetProfile) -> None:
    """plan.toml is valid TOML with factors, ranks and lowering of each factorized site."""
    plan = make_plan(survey, ErrorScan(weights), [parse_goal("macs<=0.5")], profile, quiet)
    read = tomllib.loads(plan_toml(plan))
    assert (read["target"], read["basis"]) == (profile.name, "roofline")
    for table, choice in zip(read["site"], plan.sites, strict=True):
        assert table["name"] == choice.site
        if choice.structure is not None:
            assert [tuple(f["size"]) for f in table["factors"]] == [f.size for f in choice.structure.factors]
            assert (tuple(table["ranks"]), table["lowering"]) == (choice.structure.ranks, choice.lowering)


def test_the_roofline_prefers_no_transposes_and_full_lanes(profile: TargetProfile) -> None:
    """A low-rank pair of plain convs is estimated faster than groups of four channels at equal MACs and more."""
    plain = generate_forms(gkpd_structure((64, 1, 1, 1), (1, 64, 3, 3), 16), GEOMETRY, (14, 14))
    grouped = generate_forms(gkpd_structure((16, 16, 1, 1), (4, 4, 3, 3), 2), GEOMETRY, (14, 14))
    fastest = min(form_seconds(form, profile) for form in plain[1:])
    assert fastest < form_seconds(plain[0], profile)
    assert fastest < min(form_seconds(form, profile) for form in grouped[1:])


def test_what_does_not_pay_is_used_only_where_goals_need_it(
    survey: Survey, weights: dict[str, np.ndarray], profile: TargetProfile
) -> None:
    """On a target that is slow to launch no structure pays: none is used, until a goal cannot be met otherwise."""
    slow = profile.model_copy(update={"roofline": profile.roofline.model_copy(update={"launch_us": 1e6})})
    assert make_plan(survey, ErrorScan(weights), [parse_goal("macs<=1")], slow, quiet) == dense_plan(survey, slow)
    plan = make_plan(survey, ErrorScan(weights), [parse_goal("macs<=0.5")], slow, quiet)
    assert any(choice.structure for choice in plan.sites)


def test_dense_stays_a_candidate_of_a_layer_of_zeros(profile: TargetProfile) -> None:
    """Every structure is exact there, and dense is still the first choice to fall back to."""
    zero = ErrorScan({"s": np.zeros((32, 32, 3, 3))})
    (options,) = all_candidates([site("s", 32, 32)], zero, roofline_model(profile), quiet)
    assert (options[0].structure, options[0].lowering) == (None, "dense")


def test_the_form_of_fewest_macs_is_among_the_candidates(profile: TargetProfile) -> None:
    """For each structure and rank, also where another form is estimated to be faster."""
    place = site("s", 32, 16)
    scan = ErrorScan({"s": np.random.default_rng(0).standard_normal((32, 16, 3, 3))})
    (options,) = all_candidates([place], scan, roofline_model(profile), quiet)
    for option in options[1:]:
        assert option.structure is not None
        forms = generate_forms(option.structure, GEOMETRY, place.input_size)
        leanest = min(form.macs for form in forms[1:])
        assert any(c.macs <= leanest and c.squared_error <= option.squared_error for c in options)


@pytest.mark.parametrize("goal", ["size<=0.5", "accuracy_drop<=1", "memory<=0.9"])
def test_every_goal_makes_a_plan_that_compresses(
    survey: Survey, weights: dict[str, np.ndarray], profile: TargetProfile, goal: str
) -> None:
    """Size is planned for by what model.onnx stores; goals that no estimate reaches, by the default goal."""
    plan = make_plan(survey, ErrorScan(weights), [parse_goal(goal)], profile, quiet)
    assert any(choice.structure for choice in plan.sites)
    if goal.startswith("size"):
        stored = 1000
        for place, choice in zip(survey.sites, plan.sites, strict=True):
            if choice.structure is None:
                stored += place.params
            else:
                forms = generate_forms(choice.structure, GEOMETRY, place.input_size)
                stored += next(form.weights for form in forms if form.name == choice.lowering)
        assert stored <= 0.5 * survey.params


def test_an_estimate_never_refuses(survey: Survey, weights: dict[str, np.ndarray], profile: TargetProfile) -> None:
    """Where a goal on latency and one on params exclude each other by the roofline, time is made least instead."""
    goals = [parse_goal("params<=0.05"), parse_goal("latency<=0.05")]
    plan = make_plan(survey, ErrorScan(weights), goals, profile, quiet)
    assert sum(choice.params for choice in plan.sites) + 1000 <= 0.05 * survey.params


def test_a_goal_on_latency_alone_plans_for_time(
    survey: Survey, weights: dict[str, np.ndarray], profile: TargetProfile
) -> None:
    """Half the estimated time of dense is planned for, and what cannot be reached is approached, not refused."""
    half = make_plan(survey, ErrorScan(weights), [parse_goal("latency<=0.5")], profile, quiet)
    none = make_plan(survey, ErrorScan(weights), [parse_goal("latency<=1e-9")], profile, quiet)
    dense, planned, fastest = (
        sum(choice.macs for choice in plan.sites) for plan in (dense_plan(survey, profile), half, none)
    )
    assert fastest < planned < dense


def test_with_slack_the_fastest_of_nearly_equal_choices_is_taken(
    survey: Survey, weights: dict[str, np.ndarray], profile: TargetProfile
) -> None:
    """Its error is within the slack, its time no longer; without slack nothing changes."""
    candidates = all_candidates(survey.sites, ErrorScan(weights), roofline_model(profile), quiet)
    goals = [parse_goal("macs<=0.5")]
    exact, near = choose(survey, candidates, goals), choose(survey, candidates, goals, 0.2)
    errors = [sum(pick.cubed_error for pick in picks) for picks in (exact, near)]
    times = [sum(pick.seconds for pick in picks) for picks in (exact, near)]
    assert errors[0] <= errors[1] <= 1.2 * errors[0]
    assert times[1] < times[0]


def test_slack_takes_nothing_from_a_network_that_may_stay_dense(
    survey: Survey, weights: dict[str, np.ndarray], profile: TargetProfile
) -> None:
    candidates = all_candidates(survey.sites, ErrorScan(weights), roofline_model(profile), quiet)
    assert all(pick.structure is None for pick in choose(survey, candidates, [parse_goal("macs<=1")], 0.05))


@pytest.mark.parametrize("goal", ["accuracy_drop<=1", "memory<=0.9"])
def test_the_default_goal_is_met_as_far_as_the_sites_can(
    survey: Survey, weights: dict[str, np.ndarray], profile: TargetProfile, goal: str
) -> None:
    """Nobody gave it: where most of the network is no site it refuses nothing."""
    large = replace(survey, macs=survey.macs * 10, params=survey.params * 10)
    plan = make_plan(large, ErrorScan(weights), [parse_goal(goal)], profile, quiet)
    assert all(choice.structure for choice in plan.sites)


def test_what_steers_refuses_nothing() -> None:
    """A bound on memory that the goal on MACs excludes is approached."""
    dense = site("conv", 16, 16)
    one = Survey((dense,), (), dense.params + 1000, dense.macs + 1000)
    lean = Candidate(PAIR, "grouped-1-2", 10, 10_000, 900, 0.1, 1.0, pays=True)
    small = Candidate(PAIR, "grouped-2-1", 10, 100_000, 10, 0.1, 1.0, pays=True)
    left = Candidate(None, "dense", dense.params, dense.macs, dense.params, 0.0, 2.0, pays=True)
    goals = [parse_goal("macs<=20k"), parse_goal("memory<=0.1")]
    assert choose(one, [[left, lean, small]], goals, steering=Steering({"weights": 0.05})) == [lean]


def test_a_limit_of_nothing_is_refused() -> None:
    options = [Candidate(None, "dense", 1, 1, 1, 0.0, 0.0, pays=True)]
    with pytest.raises(GoalError, match="no choice is within all limits"):
        solve([options], {"macs": -5.0})
