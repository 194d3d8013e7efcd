"""Whether a device is the one that a target describes, by what it tells of itself."""

from collections.abc import Mapping
from typing import Any

from kronexport.backends.profile import TargetProfile
from kronexport.errors import MissingRuntimeError, UserInputError


def check_fits(profile: TargetProfile, place: str, environment: Mapping[str, Any]) -> None:
    """Refuse another kind of machine, another board, and a runtime of a release that does not serve.

    Args:
        profile: of the target.
        place: what the device is called in the message.
        environment: as ``agent.machine_environment`` gives it, of the device with the target's runtime.

    Raises:
        UserInputError: It is another machine or board.
        MissingRuntimeError: It has another release of the runtime; with the pip command, or the target to take.
    """
    check_machine(profile, place, environment["machine"])
    if profile.compatible and set(profile.compatible).isdisjoint(environment["compatible"]):
        names = ", ".join(environment["compatible"]) or "no board with a device tree"
        raise UserInputError(
            f"target {profile.name!r}: {place} is {names}, expected {' or '.join(profile.compatible)}; "
            "choose its target: kronexport targets list"
        )
    check_release(profile, place, environment["runtime_version"])


def check_machine(profile: TargetProfile, place: str, found: str) -> None:
    """Refuse another kind of machine, such as "aarch64"; raises ``UserInputError``."""
    if profile.machine is not None and found not in profile.machine:
        raise UserInputError(
            f"target {profile.name!r}: {place} is {found}, expected {' or '.join(profile.machine)}; "
            "choose its target: kronexport targets list"
        )


def check_release(profile: TargetProfile, place: str, version: str) -> None:
    """Refuse a runtime of a release that does not serve; raises ``MissingRuntimeError`` with what to do."""
    rule = profile.runtime
    if rule.allows(version):
        return
    if profile.board is not None:
        raise MissingRuntimeError(
            f"target {profile.name!r}: {place} has {rule.package} {version}, expected {rule.version} (JetPack "
            f"{profile.board.jetpack}); build with the --target of its JetPack: kronexport targets list"
        )
    sign = ">=" if rule.rule == "minimum" else "=="
    raise MissingRuntimeError(
        f"target {profile.name!r}: {place} has {rule.package} {version}, expected {rule.version} ({rule.rule}); "
        f"run on it: python -m pip install '{rule.package}{sign}{rule.version}'"
    )
