"""A plan that the user gives, checked against the model that it is for."""

from collections.abc import Mapping

from kronexport.backends.profile import load_target
from kronexport.errors import UserInputError, named
from kronexport.factorize.decompose import METHODS, check_method
from kronexport.factorize.network import check_group
from kronexport.lower.forms import DENSE, generate_forms
from kronexport.plan.choose import left_dense
from kronexport.plan.fixed import ChosenForm, FormOf, dense_form_notes, keep, planned
from kronexport.plan.plan_file import STAYS_DENSE, PlanFile, SiteTable
from kronexport.records import Plan, Site, SitePlan, Structure, Survey
from kronexport.survey.imports import suggestion


def given_plan(file: PlanFile, survey: Survey, fixed: Mapping[str, Structure], form_of: FormOf) -> Plan:
    """The plan of a file. A site that it does not name stays dense, or keeps its factors if it has any.

    Args:
        file: as ``read_plan_file`` gives it.
        survey: the sites of the model.
        fixed: the structure of the sites that hold factors already.
        form_of: says the fastest form where the file names none.

    Raises:
        UserInputError: the target is none, or a site is not in the model; a site's factors, ranks or lowering do not
            fit it. The message lists what does.
    """
    tables = {table.name: table for table in file.site}
    _check_names(tables, survey)
    choices = []
    for site in survey.sites:
        with named(f"site {site.name}"):
            choices.append(_choice(site, tables.get(site.name), fixed.get(site.name), form_of))
    return Plan(load_target(file.target).name, tuple(choices), "given", dense_form_notes(choices))


def _check_names(tables: Mapping[str, SiteTable], survey: Survey) -> None:
    sites = [site.name for site in survey.sites]
    reasons = {entry.site: entry.reason for entry in survey.skipped}
    for name, table in tables.items():
        if name in reasons and table.method != STAYS_DENSE:
            raise UserInputError(f"site {name}: {reasons[name]}; expected method = {STAYS_DENSE!r}, or no such site")
        if name not in sites and name not in reasons:
            raise UserInputError(
                f"site {name}: is no layer that can be factorized, which a linear layer is where --include names it"
                f"{suggestion(name, sites)}"
            )


def _choice(site: Site, table: SiteTable | None, fixed: Structure | None, form_of: FormOf) -> SitePlan:
    if table is None:
        return (
            left_dense(site, "the plan that was given does not name it")
            if fixed is None
            else keep(site, fixed, form_of)
        )
    if table.method == STAYS_DENSE:
        _check_dense(table)
        return left_dense(site, "the plan that was given says so")
    structure = table.structure
    if fixed is None:
        _check_structure(site, structure)
    elif structure != fixed:
        raise UserInputError(
            f"method {structure.method!r}, factors {structure} at ranks {structure.ranks}: the model holds factors "
            f"here already, {fixed.method!r}, {fixed} at ranks {fixed.ranks}; keep those, or leave the site out"
        )
    return planned(site, _form(site, structure, table.lowering, form_of), None if fixed is None else 0.0)


def _check_dense(table: SiteTable) -> None:
    if table.factors or table.ranks or table.lowering not in (None, DENSE):
        raise UserInputError(
            f"method: got {STAYS_DENSE!r} with factors, ranks or a lowering, expected it alone; remove these, or name "
            f"their method: {', '.join(METHODS)}"
        )


def _check_structure(site: Site, structure: Structure) -> None:
    if structure.method not in METHODS:
        known = [STAYS_DENSE, *METHODS]
        raise UserInputError(f"method: got {structure.method!r}{suggestion(structure.method, known)}")
    check_method(structure)
    if structure.weight_shape != site.weight_shape:
        raise UserInputError(
            f"factors: {structure} multiply to {structure.weight_shape}, expected the weight's shape "
            f"{site.weight_shape}; change the sizes so that they do in each of f, c, h, w"
        )
    check_group(structure, site.geometry.group, "factors")


def _form(site: Site, structure: Structure, lowering: str | None, form_of: FormOf) -> ChosenForm:
    if lowering is None:
        return form_of(site, structure)
    forms = {form.name: form for form in generate_forms(structure, site.geometry, site.input_size)}
    if lowering not in forms:
        raise UserInputError(
            f"lowering: got {lowering!r}, expected one of {', '.join(forms)}; or leave it out, and it is chosen"
        )
    return ChosenForm(forms[lowering])
