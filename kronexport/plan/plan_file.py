"""plan.toml: the plan as a file that people can read."""

from typing import Any

import tomli_w

from kronexport.records import Plan, SitePlan


def plan_toml(plan: Plan) -> str:
    """One ``[[site]]`` table a site, in execution order."""
    return tomli_w.dumps({"target": plan.target, "basis": plan.basis, "site": [_table(site) for site in plan.sites]})


def _table(choice: SitePlan) -> dict[str, Any]:
    if choice.structure is None:
        return {"name": choice.site, "method": "dense"}
    return {
        "name": choice.site,
        "method": choice.structure.method,
        "factors": [{"rank_axes": factor.rank_axes, "size": list(factor.size)} for factor in choice.structure.factors],
        "ranks": list(choice.structure.ranks),
        "lowering": choice.lowering,
        "rel_error": round(choice.rel_error, 6),
    }
