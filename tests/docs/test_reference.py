"""docs/reference.md is what tools/make_reference.py makes of the code as it is."""

import runpy

from tests.docs.pages import ROOT, text_of


def test_the_reference_is_that_of_this_code() -> None:
    made = runpy.run_path(str(ROOT / "tools" / "make_reference.py"))["reference"]()
    assert text_of("docs/reference.md") == made, "run: python tools/make_reference.py"
    for word in (
        "kronexport build",
        "`--goal`",
        "VerificationError",
        "kronexport.compress",
        "`rel_l2`",
        "measure.seconds",
    ):
        assert word in made
