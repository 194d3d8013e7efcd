"""One weight, any method: ``decompose`` finds the method by name and gives it the factors that the field uses."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from numpy.typing import NDArray

from kronexport.errors import UserInputError
from kronexport.factorize.cp import cp, cp_max_ranks, cp_structure
from kronexport.factorize.gkpd import gkpd
from kronexport.factorize.network import KroneckerNetwork, check_structure
from kronexport.factorize.refine import check_refinable
from kronexport.factorize.sekron import sekron, sekron_axes, sekron_max_ranks, sekron_structure
from kronexport.factorize.tensor import Size4, build_structure, check_array, check_ranks
from kronexport.factorize.tensor_ring import tensor_ring, tensor_ring_max_ranks, tensor_ring_structure
from kronexport.factorize.tensor_train import tensor_train, tensor_train_max_ranks, tensor_train_structure
from kronexport.factorize.tucker import tucker, tucker2_structure, tucker_max_ranks, tucker_structure
from kronexport.records import Structure


@dataclass(frozen=True, slots=True)
class Method:
    """How a structure of the method is built from factor sizes and ranks, and how its factors are found.

    ``max_ranks`` says by axis the highest rank that is of use. ``usual_sizes`` gives the factors of a weight
    [F, C, kh, kw] where the caller names none; None: there is no usual choice.
    """

    structure: Callable[[Sequence[Size4], Sequence[int]], Structure]
    factorize: Callable[[NDArray[Any], Structure], KroneckerNetwork]
    max_ranks: Callable[[Structure], Mapping[str, int]]
    usual_sizes: Callable[[Size4], list[Size4]] | None


def decompose(
    weight: NDArray[Any], method: str | Structure, ranks: Sequence[int] = (), sizes: Sequence[Size4] = ()
) -> KroneckerNetwork:
    """Factorize one convolution weight; ``to_dense()`` of the result approximates it.

    Args:
        weight: [F, C, kh, kw], floating point, finite; a grouped conv's is [F, C / groups, kh, kw], a linear layer's
            [F, C, 1, 1].
        method: a name in ``METHODS``, or a whole structure, which then says all that follows.
        ranks: one a rank axis, in alphabetical order of the axes (docs/methods.md).
        sizes: (f, c, h, w) of each factor, the slowest first; they multiply to the weight's shape in each mode.
            GKPD and SeKron need them; the others have usual ones. Modes of size 1 are left out of

            CP (F) (C) (kh) (kw); Tucker the same and a core; TT (F) (kh) (kw) (C). Tucker-2 always has (F) (C)
            and the core (kh kw), and TR always (F) (kh kw) (C).

    Returns:
        A network with the weight's dtype.

    Raises:
        UserInputError: the method is unknown, sizes or ranks do not fit the weight, or the weight is no finite
            floating-point array of four axes.
    """
    check_array(weight, "decompose")
    if isinstance(method, Structure) and (ranks or sizes):
        raise UserInputError("decompose: a structure holds its ranks and sizes; give those only with a method's name")
    structure = method if isinstance(method, Structure) else _structure(method, weight.shape, ranks, sizes)
    return _method(structure.method).factorize(weight, structure)


def check_method(structure: Structure) -> None:
    """Raise UserInputError unless the structure is one that its method makes, at ranks that are of use."""
    check_structure(structure)
    method = _method(structure.method)
    made = method.structure([factor.size for factor in structure.factors], structure.ranks)
    for index, (given, expected) in enumerate(zip(structure.factors, made.factors, strict=True), 1):
        if given != expected:
            raise UserInputError(
                f"{structure.method}: factor {index} has the rank axes {given.rank_axes!r}, expected "
                f"{expected.rank_axes!r}: this method has {', '.join(factor.rank_axes for factor in made.factors)}"
            )
    check_ranks(structure, method.max_ranks(structure))
    if structure.method in LEAST_SQUARES:
        check_refinable(structure)


def _method(name: str) -> Method:
    if name not in METHODS:
        raise UserInputError(f"decompose: no method {name!r}; there are {', '.join(METHODS)}")
    return METHODS[name]


def _structure(name: str, weight_shape: Size4, ranks: Sequence[int], sizes: Sequence[Size4]) -> Structure:
    method = _method(name)
    _check_integers(ranks, "ranks", "16,")
    for size in sizes:
        _check_integers(size, "a factor's size", "8, 1, 1, 1")
    if sizes:
        return method.structure(sizes, ranks)
    if method.usual_sizes is None:
        raise UserInputError(f"decompose: {name} needs sizes, (f, c, h, w) of each factor, for a weight {weight_shape}")
    return method.structure(method.usual_sizes(weight_shape), ranks)


def _check_integers(numbers: Sequence[int], what: str, example: str) -> None:
    if isinstance(numbers, Sequence) and all(isinstance(number, Integral) for number in numbers):
        return
    raise UserInputError(f"decompose: {what}: got {numbers!r}, expected a sequence of integers: ({example})")


def _gkpd_structure(sizes: Sequence[Size4], ranks: Sequence[int]) -> Structure:
    return build_structure("gkpd", sekron_axes(2), sizes, ranks)


def _modes(weight_shape: Size4) -> list[Size4]:
    """A factor for F, C, kh and kw each, but none for a mode of size 1."""
    filters, channels, height, width = weight_shape
    factors = [(filters, 1, 1, 1), (1, channels, 1, 1), (1, 1, height, 1), (1, 1, 1, width)]
    return [factor for factor in factors if max(factor) > 1]


def _modes_and_core(weight_shape: Size4) -> list[Size4]:
    return [*_modes(weight_shape), (1, 1, 1, 1)]


def _kernel_in_core(weight_shape: Size4) -> list[Size4]:
    filters, channels, height, width = weight_shape
    return [(filters, 1, 1, 1), (1, channels, 1, 1), (1, 1, height, width)]


def _kernel_between_channels(weight_shape: Size4) -> list[Size4]:
    filters, channels, height, width = weight_shape
    factors = [(filters, 1, 1, 1), (1, 1, height, 1), (1, 1, 1, width), (1, channels, 1, 1)]
    return [factor for factor in factors if max(factor) > 1]


def _whole_kernel_between_channels(weight_shape: Size4) -> list[Size4]:
    filters, channels, height, width = weight_shape
    return [(filters, 1, 1, 1), (1, 1, height, width), (1, channels, 1, 1)]


METHODS: dict[str, Method] = {
    "gkpd": Method(_gkpd_structure, gkpd, sekron_max_ranks, None),
    "sekron": Method(sekron_structure, sekron, sekron_max_ranks, None),
    "cp": Method(cp_structure, cp, cp_max_ranks, _modes),
    "tucker": Method(tucker_structure, tucker, tucker_max_ranks, _modes_and_core),
    "tucker2": Method(tucker2_structure, tucker, tucker_max_ranks, _kernel_in_core),
    "tt": Method(tensor_train_structure, tensor_train, tensor_train_max_ranks, _kernel_between_channels),
    "tr": Method(tensor_ring_structure, tensor_ring, tensor_ring_max_ranks, _whole_kernel_between_channels),
}
"""Every method by the name that ``Structure.method`` and the operator's metadata carry."""

LEAST_SQUARES = ("cp", "tr")
"""Methods that have no other way to their factors, and so no structure that is not ``refinable``."""
