"""Leases and filter chains in a network namespace of their own, with a real dnsmasq, nft and DHCP client."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.agent.conftest import ROOT, a_folder

BODY = Path(__file__).with_name("network_body.py")


@pytest.fixture(scope="module")
def seen():
    """What ``network_body.py`` saw in there."""
    argv = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, str(BODY)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with a_folder() as folder:
        folder.chmod(0o755)  # dnsmasq drops its rights before it reads
        done = subprocess.run([*argv, str(folder)], capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_guest_gets_its_lease_with_its_gateway_once_it_is_plugged_in(seen):
    assert seen["lease before plug"] == ""
    assert seen["lease"] == "10.50.0.10 10.50.0.1"


def test_a_guest_without_a_gateway_is_told_none(seen):
    assert seen["another lease without a gateway"] == "10.50.0.11"


def test_the_node_tells_which_addresses_it_gives(seen):
    assert seen["given"] == [["br0", "10.50.0.10"], ["br0", "10.50.0.11"]]


def test_one_server_serves_a_bridge_and_a_repeated_plug_leaves_it_alone(seen):
    assert seen["one server for both, and left alone"]


def test_a_further_guest_is_served_by_the_same_server_and_its_lease_can_be_taken_back(seen):
    assert seen["a further one by the same server"] == "10.50.0.12 10.50.0.1"
    assert not seen["a lease that was taken back"]


def test_nobody_beyond_the_uplink_is_answered(seen):
    assert seen["answered across the uplink"] == ""


def test_a_guest_speaks_with_its_own_address_and_mac_only(seen):
    assert seen["own address"]
    assert not seen["stolen address"]
    assert not seen["stolen mac"]


def test_an_address_is_given_once_and_again_after_it_was_freed(seen):
    assert seen["address twice"] == "address_taken"
    assert seen["freed address"] == "10.50.0.10"


def test_an_absent_bridge_and_an_address_that_is_none_are_refused(seen):
    assert seen["absent bridge"] == "bridge_absent"
    assert seen["bad address"] == "bad_message"


def test_a_boot_rebuilds_chains_and_leases(seen):
    assert seen["after a boot"] == {
        "chains": ["ul" + "b" * 13, "ul" + "c" * 13],
        "leases": [["b" * 13, "52:54:00:00:00:0b", "10.50.0.11"], ["c" * 13, "52:54:00:00:00:0c", "10.50.0.10"]],
        "lease": "10.50.0.10",
        "stolen address": False,
    }


def test_nothing_is_left_when_all_is_unplugged(seen):
    assert seen["at the end"] == {"chains": [], "leases": [], "servers": []}


def test_a_table_that_somebody_deleted_is_made_anew_with_the_next_interface(seen):
    assert seen["chains after somebody deleted the table"] == ["ul" + "c" * 13]
