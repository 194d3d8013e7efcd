"""``compress``: from an nn.Module to an nn.Module whose layers are Kronecker networks, without export or runtime.

It walks the first stages of ``pipeline.py``, survey, plan and factorize, on a model that is there already.
"""

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from numpy.typing import NDArray
from torch import Tensor, nn

from kronexport.backends.profile import load_target
from kronexport.errors import UserInputError
from kronexport.export.replace import factorized, site_weights, weight_errors
from kronexport.factorize.calibrate import Calibration, image_limit
from kronexport.factorize.scan import ErrorScan
from kronexport.lower.forms import least_macs
from kronexport.plan.choose import make_plan
from kronexport.plan.goals import DEFAULT_GOALS, parse_goal
from kronexport.records import InputSpec, ProgressCallback, Site, Skipped, Structure, Survey, silent
from kronexport.survey.imports import suggestion
from kronexport.survey.inputs import checked_shape, gathered
from kronexport.survey.model import copied_model
from kronexport.survey.sites import survey

_PLACE = "compress"
_COUNTED = ("params", "macs")
"""Goals that are met by counting; any other needs the engine that ``kronexport.build`` makes."""


@dataclass(frozen=True, slots=True)
class CompressedSite:
    """What became of one layer; ``structure`` is None where it stays dense.

    ``params`` and ``macs`` are the site's, the latter in the cheapest order of contraction for the whole batch;
    ``rel_error`` = ||W - W^|| / ||W||.
    """

    site: str
    structure: Structure | None
    params: int
    macs: int
    rel_error: float


@dataclass(frozen=True, slots=True, eq=False)
class Compressed:
    """A compressed model and what it costs beside the dense one.

    ``sites`` are in order of execution; ``skipped`` says why other layers stay. ``params`` counts each
    parameter of the network once, ``macs`` its convolutions and matrix products at the given input.
    """

    model: nn.Module
    sites: tuple[CompressedSite, ...]
    skipped: tuple[Skipped, ...]
    params: int
    macs: int
    dense_params: int
    dense_macs: int


def compress(
    model: nn.Module,
    input: Sequence[int] | NDArray[Any] | Tensor,  # noqa: A002  # as --input
    *,
    goal: Sequence[str] = (),
    calibration: NDArray[Any] | Tensor | Iterable[Any] | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    target: str = "cpu",
    structures: Mapping[str, Structure] | None = None,
    progress: ProgressCallback = silent,
) -> Compressed:
    """Factorize the layers of ``model``; what ``kronexport build`` does before it exports.

    Args:
        model: in any mode, on any device, of any floating type; it is not changed.
        input: shape [N, C, H, W], or an example of which the shape is taken; MACs are those of this batch.
        goal: ``params<=0.5``, ``macs<=10M``; see ``--goal``. None given: ``macs<=0.5``.
        calibration: images [n, C, H, W] as the model takes them, or an iterable of batches, as a DataLoader is one;
            the factors are fitted to the first 512 of them. One is enough, though few say little. None: the factors
            are fitted to the weights alone.
        include: ``fnmatch`` patterns of the convs and linear layers to factorize; none: all convs.
        exclude: patterns of layers to leave dense.
        target: whose roofline the planner prefers structures by.
        structures: by the name of a layer, of any method: these and no others are factorized, without a plan.
            ``kronexport.decompose(weight, method, ranks).structure`` makes one.
        progress: told (stage, done, total).

    Returns:
        The model is a new one, in eval mode, on the CPU, float32.

    Raises:
        UserInputError: something in the arguments is wrong; the message names them as the command's options.
        GoalError: no choice of structures meets the goals; the message says the least that is reachable.
    """
    _check_sequences(goal=goal, include=include, exclude=exclude)
    dense = copied_model(model, _PLACE)
    spec = InputSpec("input", _shape(input))
    images = None if calibration is None else gathered(calibration, spec, f"{_PLACE}: calibration")
    found = survey(dense, spec, include, exclude)
    if structures is None:
        wanted = _planned(dense, found, goal, target, progress)
    elif goal:
        raise UserInputError(f"{_PLACE}: got goal and structures; structures leave nothing to plan: give one of them")
    else:
        wanted = _in_order(structures, found)
    fitted_to = None if images is None else Calibration(images, spec.shape[0], image_limit(found.sites))
    compressed = factorized(dense, wanted, fitted_to, partial(progress, "factorize"))
    return _compressed(dense, compressed, found, wanted)


def _check_sequences(**given: Sequence[str]) -> None:
    """A text is a sequence too, but of letters."""
    for name, value in given.items():
        if isinstance(value, str):
            raise UserInputError(f"{_PLACE}: {name} is the text {value!r}; expected a sequence: {name}=({value!r},)")


def _shape(given: Sequence[int] | NDArray[Any] | Tensor) -> tuple[int, ...]:
    try:
        sizes = tuple(map(operator.index, getattr(given, "shape", given)))
    except TypeError as error:
        raise UserInputError(f"--input {given!r}: expected a shape (N, C, H, W), an array or a tensor") from error
    return checked_shape(sizes, str(sizes))


def _planned(
    dense: nn.Module, found: Survey, goal: Sequence[str], target: str, progress: ProgressCallback
) -> dict[str, Structure]:
    goals = [parse_goal(text) for text in goal or DEFAULT_GOALS]
    for one in goals:
        if one.name not in _COUNTED:
            raise UserInputError(
                f"--goal {one.expr!r}: {one.name} needs an engine, which compress does not make; "
                f"give {' or '.join(_COUNTED)}, or use kronexport.build"
            )
    scan = ErrorScan(site_weights(dense, tuple(site.name for site in found.sites)))
    scan.prefetch(progress)
    return make_plan(found, scan, goals, load_target(target), progress).structures


def _in_order(structures: Mapping[str, Structure], found: Survey) -> dict[str, Structure]:
    """The user's structures in order of execution, each for a site and of its weight's shape."""
    if not isinstance(structures, Mapping):
        raise UserInputError(
            f"{_PLACE}: structures is a {type(structures).__name__}, expected a dict: layer's name, its structure"
        )
    sites = {site.name: site for site in found.sites}
    reasons = {entry.site: entry.reason for entry in found.skipped}
    for name, structure in structures.items():
        if name not in sites:
            reason = f"; it {reasons[name]}" if name in reasons else suggestion(name, list(sites))
            raise UserInputError(f"{_PLACE}: structures: {name!r} is no layer that can be factorized{reason}")
        _check_structure_of(sites[name], structure)
    return {name: structures[name] for name in sites if name in structures}


def _check_structure_of(site: Site, structure: Structure) -> None:
    place = f"{_PLACE}: structures: {site.name}"
    if not isinstance(structure, Structure):
        raise UserInputError(
            f"{place}: is a {type(structure).__name__}, expected a Structure: kronexport.decompose(...).structure"
        )
    shape = (site.out_channels, site.in_channels // site.geometry.group, *site.geometry.kernel)
    if structure.weight_shape != shape:
        raise UserInputError(
            f"{place}: {structure} makes a weight {structure.weight_shape}, expected {shape}; "
            f"decompose the weight of this layer"
        )


def _compressed(dense: nn.Module, model: nn.Module, found: Survey, structures: Mapping[str, Structure]) -> Compressed:
    errors = weight_errors(dense, model)
    sites = tuple(_row(site, structures.get(site.name), errors.get(site.name, 0.0)) for site in found.sites)
    saved = sum(site.macs for site in found.sites) - sum(row.macs for row in sites)
    return Compressed(
        model=model,
        sites=sites,
        skipped=found.skipped,
        params=sum(parameter.numel() for parameter in model.parameters()),
        macs=found.macs - saved,
        dense_params=found.params,
        dense_macs=found.macs,
    )


def _row(site: Site, structure: Structure | None, rel_error: float) -> CompressedSite:
    if structure is None:
        return CompressedSite(site.name, None, site.params, site.macs, 0.0)
    params = structure.params + (site.out_channels if site.has_bias else 0)
    macs = site.batch * least_macs(structure, site.geometry, site.input_size)
    # a layer whose factors would need more is computed by its dense weight
    return CompressedSite(site.name, structure, params, min(site.macs, macs), rel_error)
