"""Alternating least squares on the weight: min ||W - W^||^2 over the factors of any Kronecker network.

With all cores but k fixed, T ~ X^T K is linear in core k, X [its rank axes, n_k], where K [its rank axes, the other
n] is the contraction of the others. The normal equations need two small contractions and never K itself:

    N X = B,    N = K K^T   [ranks, ranks]    the others against themselves
                B = K T_k^T [ranks, n_k]      the weight against the others

(Kolda and Bader, SIAM Review 2009, section 3.4, written there for CP). Each step solves for the change of X, with N
scaled to a unit diagonal and a tiny proximal term, so that a singular N does no harm and no step goes up.
"""

import math
import string
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from opt_einsum import contract_expression
from threadpoolctl import threadpool_limits

from kronexport.errors import UserInputError
from kronexport.factorize.network import KroneckerNetwork, relative_error
from kronexport.factorize.tensor import Cores, core_sizes, cores_of, network_of, rearrange
from kronexport.records import Structure

_PROXIMAL = 1e-12
"""Weight of ||X - X_before||^2 against a unit diagonal of N."""

MOST_RANKS = 4096
"""Rank combinations of one core: N has as many rows, 128 MiB at this size."""

_SWEEPS = 300
_TRIAL_SWEEPS = 30
_STALLED = 1e-6
"""A sweep that lowers the squared error by less than this part of it is the last."""

_ROUNDING = 1e-15
"""A squared error below this part of ||W||^2 is rounding."""


def refine(weight: NDArray[Any], network: KroneckerNetwork) -> KroneckerNetwork:
    """The network after alternating least squares, or the given one if that is no worse.

    Args:
        weight: [F, C, kh, kw], finite.
        network: the start, of any structure whose ``weight_shape`` is the weight's.

    Raises:
        UserInputError: the structure does not fit the weight, or is not ``refinable``.
    """
    return _refined(weight, network, _SWEEPS)


def refine_best(weight: NDArray[Any], starts: Iterable[KroneckerNetwork]) -> KroneckerNetwork:
    """Refine every start a little and the best of them to the end; arguments as for ``refine``."""
    trials = [_refined(weight, start, _TRIAL_SWEEPS) for start in starts]
    return refine(weight, min(trials, key=lambda trial: relative_error(weight, trial.to_dense())))


def refinable(structure: Structure) -> bool:
    """Whether the normal equations of every core fit into memory."""
    return _rank_combinations(structure) <= MOST_RANKS


def check_refinable(structure: Structure) -> None:
    """Raise UserInputError unless the structure is ``refinable``."""
    if not refinable(structure):
        raise UserInputError(
            f"{structure.method}: {structure} at ranks {structure.ranks} has a factor with "
            f"{_rank_combinations(structure)} rank combinations, least squares takes at most {MOST_RANKS}; "
            "lower the ranks"
        )


def _rank_combinations(structure: Structure) -> int:
    """Of the core that has most."""
    sizes = structure.rank_sizes
    return max(math.prod(sizes[axis] for axis in factor.rank_axes) for factor in structure.factors)


def _refined(weight: NDArray[Any], network: KroneckerNetwork, sweeps: int) -> KroneckerNetwork:
    structure = network.structure
    check_refinable(structure)
    tensor = rearrange(weight.astype(np.float64), structure)
    problems = [_problem(structure, k) for k in range(len(structure.factors))]
    cores = cores_of(network)
    total = float(np.sum(np.square(tensor)))
    if total == 0:  # met exactly by zeros alone; least squares would only come near
        return network_of(structure, [np.zeros_like(core) for core in cores], network.factors[0].dtype)
    before = np.inf
    # numpy's threads and torch's only wait for each other: two of each took ten times as long at 64 channels
    with threadpool_limits(1):
        for _ in range(sweeps):
            cores = _balanced(cores)
            for problem in problems:
                squared_error = total + problem.solve(tensor, cores)
            if squared_error <= _ROUNDING * total or before - squared_error <= _STALLED * squared_error:
                break
            before = squared_error
    refined = network_of(structure, cores, network.factors[0].dtype)
    starts_at, ends_at = (relative_error(weight, each.to_dense()) for each in (network, refined))
    return refined if ends_at < starts_at else network


_Contraction = Callable[..., NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class _Problem:
    """Least squares for core ``index``, given the others."""

    index: int
    normal: _Contraction
    """N from the other cores, each contracted with itself over its n_k."""

    projected: _Contraction
    """B from T and the other cores."""

    lonely: tuple[int, ...]
    """Sizes of the rank axes that no other core has: K does not change along them."""

    def solve(self, tensor: NDArray[np.float64], cores: Cores) -> float:
        """Replace the core by the best one; returns ||W - W^||^2 - ||W||^2."""
        others = [core for k, core in enumerate(cores) if k != self.index]
        others += [np.ones((size, 1)) for size in self.lonely]
        core = cores[self.index]
        matrix = core.reshape(-1, core.shape[-1])
        normal = self.normal(*map(_against_itself, others)).reshape(len(matrix), -1)
        projected = self.projected(tensor, *others).reshape(matrix.shape)
        scale = np.sqrt(np.diag(normal))
        scale[scale == 0] = 1
        scaled = normal / np.outer(scale, scale) + _PROXIMAL * np.eye(len(matrix))
        matrix = matrix + np.linalg.solve(scaled, (projected - normal @ matrix) / scale[:, None]) / scale[:, None]
        cores[self.index] = matrix.reshape(core.shape)
        return float(np.sum(matrix * (normal @ matrix - 2 * projected)))


def _against_itself(core: NDArray[np.float64]) -> NDArray[np.float64]:
    """[rank axes, n] -> [rank axes, rank axes], summed over n."""
    matrix = core.reshape(-1, core.shape[-1])
    return (matrix @ matrix.T).reshape(core.shape[:-1] * 2)


def _problem(structure: Structure, index: int) -> _Problem:
    """The contractions for one core: rank axes, their doubles and the n get letters of their own."""
    ranks = structure.rank_sizes
    letters = dict(zip(ranks, string.ascii_letters, strict=False))
    doubles = dict(zip(ranks, string.ascii_letters[len(ranks) :], strict=False))
    modes = string.ascii_letters[2 * len(ranks) :]
    own = structure.factors[index].rank_axes
    others = [(factor.rank_axes, modes[k]) for k, factor in enumerate(structure.factors) if k != index]
    lonely = [axis for axis in own if not any(axis in axes for axes, _ in others)]
    others += [(axis, modes[len(structure.factors) + k]) for k, axis in enumerate(lonely)]
    sizes = {names[axis]: rank for names in (letters, doubles) for axis, rank in ranks.items()}
    sizes |= dict(zip(modes, core_sizes(structure), strict=False))

    def renamed(axes: str, names: dict[str, str]) -> str:
        return "".join(names[axis] for axis in axes)

    pairs = [renamed(axes, letters) + renamed(axes, doubles) for axes, _ in others]
    cores = [renamed(axes, letters) + mode for axes, mode in others]
    return _Problem(
        index,
        _contraction(pairs, renamed(own, letters) + renamed(own, doubles), sizes),
        _contraction([modes[: len(structure.factors)], *cores], renamed(own, letters) + modes[index], sizes),
        tuple(ranks[axis] for axis in lonely),
    )


def _contraction(operands: list[str], output: str, sizes: Mapping[str, int]) -> _Contraction:
    """In the cheapest order, searched for once, by torch: it multiplies matrices where numpy loops over a rank axis.

    An axis without a size is 1 long.
    """
    shapes = [tuple(sizes.get(axis, 1) for axis in axes) for axes in operands]
    expression = contract_expression(f"{','.join(operands)}->{output}", *shapes, optimize="optimal")

    def contracted(*given: NDArray[np.float64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = expression(*map(torch.from_numpy, given), backend="torch").numpy()
        return found

    return contracted


def _balanced(cores: Cores) -> Cores:
    """The same network with cores of equal norm, so that no core runs off to infinity; as it is if one is zero."""
    norms = np.array([np.linalg.norm(core) for core in cores])
    if not norms.all():
        return cores
    mean = np.exp(np.mean(np.log(norms)))
    return [core * (mean / norm) for core, norm in zip(cores, norms, strict=True)]
