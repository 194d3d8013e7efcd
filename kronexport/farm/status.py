"""``kronexport farm status``: the boards of a farm and what became of them."""

from dataclasses import dataclass

from kronexport.farm.farm import Farm
from kronexport.farm.versions import misfit


@dataclass(frozen=True, slots=True)
class BoardStatus:
    """One board.

    Attributes:
        worker: the name of its worker.
        board: the target that it is.
        place: what it is called.
        state: "busy" or "idle", or why it gets no work: "quarantined", "set aside", "lost" or "does not fit".
        jobs: that its worker has, the one that runs included.
        reference_ms: what the reference took on it when a plan last asked; None: no plan did.
        factor: what its times were multiplied by then.
        kronexport: the worker's version.
        reason: why it gets no work; "": it does.
    """

    worker: str
    board: str
    place: str
    state: str
    jobs: int
    reference_ms: float | None
    factor: float | None
    kronexport: str
    reason: str


def farm_status(address: str) -> list[BoardStatus]:
    """All boards of the farm at ``address``, by their workers' names; raises as ``Farm``."""
    with Farm(address) as farm:
        told = farm.told()
        return [
            BoardStatus(
                worker=seen.name,
                board=seen.profile,
                place=seen.place,
                state=_state(
                    told.get(seen.name, {}).get("state", ""), seen.jobs, fits=misfit(seen.versions, "") is None
                ),
                jobs=seen.jobs,
                reference_ms=told.get(seen.name, {}).get("reference_ms"),
                factor=told.get(seen.name, {}).get("factor"),
                kronexport=seen.versions["kronexport"],
                reason=misfit(seen.versions, "its worker") or told.get(seen.name, {}).get("reason", ""),
            )
            for seen in farm.seen()
        ]


def _state(told: str, jobs: int, *, fits: bool) -> str:
    if not fits:
        return "does not fit"
    if told in ("quarantined", "set aside", "lost"):
        return told
    return "busy" if jobs else "idle"
