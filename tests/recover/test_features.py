import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from kronexport.errors import UserInputError
from kronexport.recover.features import cut_before, factorized_sites, feature_loss, outputs_of
from tests.recover.samples import data, networks


def test_sites_are_the_layers_that_are_factorized() -> None:
    student, teacher = networks()
    assert factorized_sites(student, teacher) == ("0", "3")
    assert factorized_sites(teacher, teacher) == ()


def test_outputs_are_those_of_the_sites_and_no_hook_stays() -> None:
    student, _ = networks()
    with outputs_of(student, ("0",)) as found:
        student(data(2))
        student(data(3))
    expected = student.get_submodule("0")(data(2))
    assert [len(output) for output in found["0"]] == [2, 3]
    torch.testing.assert_close(found["0"][0], expected)
    student(data(2))
    assert len(found["0"]) == 2


def test_a_site_that_is_cut_off_learns_from_its_own_output_alone() -> None:
    """Without the cut the loss of the second reaches the first."""
    student, _ = networks()
    first = next(student.get_submodule("0").parameters())
    for sites, is_reached in (((), True), (("3",), False)):
        student.zero_grad()
        with outputs_of(student, ("3",)) as found, cut_before(student, sites):
            student(data(2))
        found["3"][0].square().sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        assert (first.grad is not None) == is_reached
        assert all(one.grad is not None for one in student.get_submodule("3").parameters())


def test_a_site_that_one_network_calls_more_often_is_named() -> None:
    one = torch.ones(2, 3)
    with pytest.raises(UserInputError, match=r"the student calls conv 1 times where the teacher does 2 times"):
        feature_loss({"conv": [one]}, {"conv": [one, one]})


@given(scale=st.floats(1e-3, 1e3), seed=st.integers(0, 99))
def test_the_unit_of_an_output_does_not_matter(scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    ours, theirs = torch.randn(2, 3, 4, 5, 6, dtype=torch.float64, generator=generator)
    plain = feature_loss({"a": [ours]}, {"a": [theirs]})
    scaled = feature_loss({"a": [ours * scale]}, {"a": [theirs * scale]})
    torch.testing.assert_close(plain, scaled, rtol=1e-4, atol=0)
    expected = (ours - theirs).square().mean() / theirs.var(correction=0)
    torch.testing.assert_close(plain.double(), expected, rtol=1e-4, atol=0)


def test_an_output_that_is_always_the_same_gives_a_finite_loss() -> None:
    assert feature_loss({"a": [torch.ones(2, 3)]}, {"a": [torch.zeros(2, 3)]}) == 1


def test_every_call_counts() -> None:
    theirs = torch.randn(4, 3)
    calls = {"a": [theirs, theirs + theirs.std(correction=0)]}
    torch.testing.assert_close(feature_loss(calls, {"a": [theirs, theirs]}), torch.tensor(0.5))


def test_the_whole_network_may_be_any_module() -> None:
    assert factorized_sites(nn.Identity(), nn.Identity()) == ()
