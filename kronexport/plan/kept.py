"""Finished plans that rest on times, kept on disk: with ``--resume`` a build goes on with the plan that it had.

A plan that is made again times its networks again, and may come out otherwise by a layer. What was trained belongs to
the factors that it was trained from.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from pydantic import TypeAdapter

from kronexport.cache import code_key, content_key, read_record, write_cached
from kronexport.records import Plan

log = logging.getLogger("kronexport")

_FILE: Final = TypeAdapter(Plan)
NOTE: Final = "the plan is that of an earlier run, which this one goes on from"


@dataclass(frozen=True, slots=True)
class KeptPlans:
    """The plans that were timed under the same conditions.

    Attributes:
        conditions: where and how long is timed.
        resumes: whether a plan of an earlier run is taken.
    """

    conditions: str
    resumes: bool = False

    def plan_of(self, step: str, question: bytes, make: Callable[[], Plan]) -> Plan:
        """The answer to ``question``: that of an earlier run, or else of ``make``.

        Args:
            step: what it is called in messages.
            question: all that the plan depends on beside the conditions.
            make: plans.
        """
        key = content_key(code_key(), self.conditions.encode(), question)
        if self.resumes:
            kept = read_record("plan", key, _FILE)
            if kept is not None:
                return replace(kept, notes=(*kept.notes, NOTE))
            log.warning("--resume: %s: no plan of an earlier run of this command is kept; it is planned now", step)
        plan = make()
        write_cached("plan", key, _FILE.dump_json(plan))
        return plan
