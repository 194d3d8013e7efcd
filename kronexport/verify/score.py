"""The score of an engine: what ships is what is scored."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronexport.backends.base import Runner
from kronexport.records import InputSpec

Predictor = Callable[[NDArray[np.float32]], NDArray[Any]]


def score_engine(runner: Runner, spec: InputSpec, evaluate: Callable[[Predictor], float]) -> float:
    """``evaluate`` called with the engine as a predictor of any number of samples.

    It gets them in batches of the input's size, whatever others it takes: where fewer samples come, the last one is
    repeated and its outputs dropped. Of several outputs the predictor gives the first.
    """

    def predict(images: NDArray[np.float32]) -> NDArray[Any]:
        missing = -len(images) % spec.shape[0]
        filled = np.concatenate([images, np.repeat(images[-1:], missing, axis=0)])
        outputs = runner.infer({spec.name: np.ascontiguousarray(filled, np.float32)}, spec.shape[0])
        return next(iter(outputs.values()))[: len(images)]

    return evaluate(predict)
