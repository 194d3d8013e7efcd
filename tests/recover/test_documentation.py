"""What docs/recover.md says beside its commands and its Python, which tests/docs/test_pages.py follows."""

import re
from dataclasses import fields

from kronexport.recover.recipe import Recipe
from tests.docs.pages import text_of


def test_the_page_names_only_fields_that_there_are() -> None:
    named = set(re.findall(r"`(\w+)=", text_of("docs/recover.md"))) - {"weights_only"}
    assert named
    assert named <= {field.name for field in fields(Recipe)}
