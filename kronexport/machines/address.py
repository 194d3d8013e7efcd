"""Where a board is: ``ssh://[USER@]HOST[:PORT]``."""

import re
from dataclasses import dataclass
from typing import Final, Self

from kronexport.errors import UserInputError

_FORM: Final = re.compile(
    r"ssh://(?:(?P<user>[\w.][\w.+-]*)@)?(?P<host>[\w][\w.-]*|\[[0-9A-Fa-f:.]+(?:%\w+)?\])(?::(?P<port>\d{1,5}))?/?"
)
_PORTS: Final = range(1, 1 << 16)


@dataclass(frozen=True, slots=True)
class Address:
    """A host as SSH knows it, which may be an alias of ``~/.ssh/config``; user and port None: what SSH takes then."""

    host: str
    user: str | None = None
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """The address that ``text`` gives.

        Raises:
            UserInputError: It is none; says which form is expected.
        """
        found = _FORM.fullmatch(text)
        if found is None or (found["port"] and int(found["port"]) not in _PORTS):
            raise UserInputError(
                f"--device {text!r}: expected ssh://[USER@]HOST[:PORT], such as ssh://me@orin; a password, a path or "
                "options do not belong there: what else SSH needs stands in ~/.ssh/config"
            )
        return cls(found["host"].strip("[]"), found["user"], int(found["port"]) if found["port"] else None)

    @property
    def place(self) -> str:
        """As people say it: ``me@orin:2222``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        user = f"{self.user}@" if self.user else ""
        return f"{user}{host}" + (f":{self.port}" if self.port else "")

    @property
    def login(self) -> str:
        """The command that logs in there by hand."""
        user = f"{self.user}@" if self.user else ""
        return f"ssh {f'-p {self.port} ' if self.port else ''}{user}{self.host}"

    def __str__(self) -> str:
        return f"ssh://{self.place}"
