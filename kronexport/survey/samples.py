"""MODEL of the form ``sample:NAME``; found without torch, which only building the network needs."""

from typing import Final

from kronexport.errors import UserInputError
from sample_models.registry import Sample, load_sample

_PREFIX: Final = "sample:"


def sample_of(model: str) -> Sample | None:
    """The sample that ``model`` names; None where it names something else.

    Raises:
        UserInputError: there is no such sample.
    """
    if not model.startswith(_PREFIX):
        return None
    try:
        return load_sample(model.removeprefix(_PREFIX))
    except ValueError as error:
        raise UserInputError(f"MODEL {error}") from error
