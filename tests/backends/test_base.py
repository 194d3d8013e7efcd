"""The agent's errors become those of kronexport."""

import pytest

from kronexport import agent
from kronexport.backends.base import agent_errors
from kronexport.errors import BundleError, KronexportError, MissingRuntimeError, UserInputError, VerificationError


@pytest.mark.parametrize(
    "expected", [KronexportError, UserInputError, MissingRuntimeError, VerificationError, BundleError]
)
def test_an_agent_error_keeps_its_exit_code_and_message(expected: type[KronexportError]) -> None:
    """The command then ends as the agent would have ended."""
    with pytest.raises(KronexportError, match=r"^engine: what happened$") as caught, agent_errors("engine: "):
        raise agent.AgentError("what happened", expected.exit_code)
    assert type(caught.value) is expected
    assert isinstance(caught.value.__cause__, agent.AgentError)
