"""The stage ``survey`` as a whole: all that is known of a model before a target is looked at."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from kronexport.errors import UserInputError
from kronexport.records import InputSpec, Survey
from kronexport.survey.exported import check_input
from kronexport.survey.inputs import Predictor, load_calibration, load_evaluator, parse_input
from kronexport.survey.model import LoadedModel
from kronexport.survey.sites import survey

GOLDEN_BATCHES = 4
"""Batches that stages are compared on and that ship as golden data."""


@dataclass(frozen=True, slots=True)
class Project:
    """A model with its input, data and sites.

    ``calibration`` are images [n, C, H, W] as the model takes them, or None where none are known.
    ``golden`` [GOLDEN_BATCHES * N, C, H, W] are the first calibration images, or seeded standard normal values.
    ``evaluate`` scores a predictor; ``unevaluated`` says why there is none.
    """

    name: str
    module: nn.Module
    input: InputSpec
    calibration: NDArray[np.float32] | None
    golden: NDArray[np.float32]
    evaluate: Callable[[Predictor], float] | None
    unevaluated: str
    survey: Survey


def load_project(
    loaded: LoadedModel,
    *,
    fixed: Collection[str],
    input_text: str | None,
    calibration: str | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    evaluate: str | None,
    include: Sequence[str],
    exclude: Sequence[str],
) -> Project:
    """Load and look at everything the user named beside the model; a sample brings what is not given.

    ``loaded`` has all layers dense, ``fixed`` names those that hold factors already; the rest is what the options of
    their names give.

    Raises:
        UserInputError: whatever is wrong with one of them.
    """
    spec = _input(loaded, input_text)
    images = _calibration(loaded, spec, calibration, mean, std)
    evaluator, reason = _evaluator(loaded, spec, evaluate)
    return Project(
        name=loaded.name,
        module=loaded.module,
        input=spec,
        calibration=images,
        golden=_golden(images, spec),
        evaluate=evaluator,
        unevaluated=reason,
        survey=survey(loaded.module, spec, include, exclude, fixed),
    )


def _input(loaded: LoadedModel, text: str | None) -> InputSpec:
    if text is not None:
        spec = parse_input(text)
        if loaded.input_shape is not None:
            check_input(spec.shape, loaded.input_shape, f"--input {text}")
        return spec
    if loaded.sample is not None:
        return InputSpec("input", loaded.sample.input_shape)
    if loaded.input_shape is not None and None not in loaded.input_shape:
        return parse_input("x".join(map(str, loaded.input_shape)))
    raise UserInputError(f"MODEL {loaded.name}: its input is not known; give --input, for example 1x3x224x224")


def _calibration(
    loaded: LoadedModel,
    spec: InputSpec,
    source: str | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> NDArray[np.float32] | None:
    if source is not None:
        return load_calibration(source, spec, mean, std)
    if mean is not None or std is not None:
        raise UserInputError("--mean and --std are for a folder of images; give it with --calibration")
    if loaded.sample is None or loaded.sample.input_shape[1:] != spec.shape[1:]:
        return None
    return loaded.sample.calibration()


def _evaluator(
    loaded: LoadedModel, spec: InputSpec, source: str | None
) -> tuple[Callable[[Predictor], float] | None, str]:
    if source is not None:
        return load_evaluator(source), ""
    sample = loaded.sample
    if sample is None:
        return None, "no --evaluate was given"
    if sample.input_shape[1:] != spec.shape[1:]:
        return None, "the sample's test images are of another size than --input, and no --evaluate was given"
    score = sample.score if loaded.weights is not None else sample.evaluator
    return score, "" if score else "the sample has no trained weights to score, and no --evaluate was given"


def _golden(images: NDArray[np.float32] | None, spec: InputSpec) -> NDArray[np.float32]:
    count = GOLDEN_BATCHES * spec.shape[0]
    if images is None:
        return np.random.default_rng(0).standard_normal((count, *spec.shape[1:])).astype(np.float32)
    return np.resize(images, (count, *spec.shape[1:]))  # repeats the images if there are too few
