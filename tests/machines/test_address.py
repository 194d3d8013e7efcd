"""``ssh://[USER@]HOST[:PORT]`` and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronexport.errors import UserInputError
from kronexport.machines.address import Address

USERS = st.none() | st.from_regex(r"[A-Za-z_.][A-Za-z0-9_.+-]{0,8}", fullmatch=True)
HOSTS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9.-]{0,12}", fullmatch=True) | st.sampled_from(["::1", "fe80::1%eth0"])
PORTS = st.none() | st.integers(1, 65535)


@given(st.builds(Address, HOSTS, USERS, PORTS))
def test_an_address_reads_as_it_is_written(address: Address) -> None:
    assert Address.parse(str(address)) == address


def test_people_and_ssh_are_told_where_it_is() -> None:
    address = Address.parse("ssh://me@Orin:2222/")
    assert (address.place, address.login) == ("me@Orin:2222", "ssh -p 2222 me@Orin")
    assert Address.parse("ssh://orin").login == "ssh orin"
    assert Address.parse("ssh://[::1]:22") == Address("::1", None, 22)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "orin",
        "me@orin",
        "http://orin",
        "ssh://",
        "ssh://@orin",
        "ssh://me:secret@orin",
        "ssh://orin/home",
        "ssh://orin:0",
        "ssh://orin:65536",
        "ssh://orin:port",
        "ssh://-oProxyCommand=x",
        "ssh://-l@orin",
        "ssh://orin?x=1",
        "ssh://or in",
        "ssh://orin\n",
        "ssh://$(x)@orin",
    ],
)
def test_anything_else_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(
        UserInputError, match=r"--device .*expected ssh://\[USER@\]HOST\[:PORT\], such as ssh://me@orin"
    ):
        Address.parse(text)
