"""What a configuration asks for, as far as its text says: goals, targets, the weights file, a sample by name.

Neither torch nor a runtime is loaded for that, so that a slip of the pen is answered at once.
"""

from dataclasses import dataclass

from kronexport.backends.profile import TargetProfile, load_target
from kronexport.config import BuildConfig
from kronexport.errors import UserInputError
from kronexport.plan.goals import Goal, parse_goal
from kronexport.survey.samples import sample_of
from kronexport.survey.weight_files import check_weights_file


@dataclass(frozen=True, slots=True)
class Asked:
    """The goals, and each target once, in the order in which they were given."""

    goals: tuple[Goal, ...]
    profiles: tuple[TargetProfile, ...]


def read_asked(config: BuildConfig) -> Asked:
    """What ``config`` names.

    Raises:
        UserInputError: a goal or a target is none, a target is not built in the precision, or there is no such file of
            weights or no such sample.
    """
    goals = tuple(map(parse_goal, config.goal))
    profiles = tuple({profile.name: profile for profile in map(load_target, config.target)}.values())
    for profile in profiles:
        if config.precision not in profile.precisions:
            raise UserInputError(
                f"--precision {config.precision}: {profile.name} is built in {', '.join(profile.precisions)}"
            )
    sample_of(config.model)
    if config.weights is not None:
        check_weights_file(config.weights)
    return Asked(goals, profiles)
