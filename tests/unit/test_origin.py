"""Where files may be downloaded from: public addresses, and networks that the installation names."""

import pytest

from nodes.contract import origin


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%lo",
        "fd00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.1.2.3",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "::127.0.0.1",
    ],
)
def test_what_only_the_cluster_can_reach_is_refused(address: str) -> None:
    assert not origin.permits(address, ())


@pytest.mark.parametrize("address", ["151.101.2.132", "2a04:4e42::644", "::ffff:151.101.2.132", "64:ff9b::9765:284"])
def test_public_addresses_are_taken(address: str) -> None:
    assert origin.permits(address, ())


def test_a_network_that_is_named_is_taken_and_no_other() -> None:
    allowed = origin.networks_of("10.1.0.0/16, fd00:1::/32,192.168.1.7")
    assert allowed == ("10.1.0.0/16", "fd00:1::/32", "192.168.1.7/32")
    for address in ("10.1.2.3", "::ffff:10.1.2.3", "fd00:1::5", "192.168.1.7"):
        assert origin.permits(address, allowed)
    for address in ("10.2.0.1", "192.168.1.8", "fd00:2::5", "127.0.0.1"):
        assert not origin.permits(address, allowed)
    with pytest.raises(ValueError, match="does not appear"):
        origin.networks_of("the office")


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/a",
        "file:///etc/shadow",
        "//example.org/a",
        "http:///a",
        "http://user@example.org/a",
        "https://user:word@example.org/a",
        "http://example.org:99999/a",
        "http://[::1/a",
        "debian.qcow2",
    ],
)
def test_other_addresses_than_those_of_the_web_are_refused(url: str) -> None:
    assert origin.parse(url) is None


def test_the_name_of_a_file_is_the_last_part_of_its_path() -> None:
    assert origin.name_of("https://example.org/a/debian%2012.iso?x=/y.qcow2#z") == "debian 12.iso"
    assert origin.name_of("https://example.org") == ""
