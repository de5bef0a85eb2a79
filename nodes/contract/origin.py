"""Where a file may be fetched from by its URL; asked by the panel early, and by the node of the address that it uses.

What a cluster's machines can reach is more than what the person who gives the URL can reach. So only public addresses
are taken, and those that the installation allows by name.
"""

import ipaddress
from collections.abc import Iterable
from urllib.parse import SplitResult, unquote, urlsplit

SCHEMES = ("http", "https")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""Behind each of its addresses stands an IPv4 one. Source: RFC 6052."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def parse(url: str) -> SplitResult | None:
    """None: it is not http:// or https:// with a host, or it has a user in it, whose password would be kept."""
    try:
        parts = urlsplit(url)
        fit = parts.scheme in SCHEMES and parts.hostname and "@" not in parts.netloc and parts.port != 0
    except ValueError:
        return None
    return parts if fit else None


def name_of(url: str) -> str:
    """The file's name, as the URL has it."""
    return unquote(urlsplit(url).path.rpartition("/")[2])


def networks_of(text: str) -> tuple[str, ...]:
    """Networks with commas between them. Raises ValueError."""
    return tuple(str(ipaddress.ip_network(one.strip(), strict=False)) for one in text.split(",") if one.strip())


def permits(address: str, networks: Iterable[str]) -> bool:
    """
    :param address: of a host, as a number.
    :param networks: those from which files may come although they are not public.
    """
    found = ipaddress.ip_address(address)
    meant = _meant(found)
    if any(one in ipaddress.ip_network(network) for network in networks for one in (found, meant)):
        return True
    tunnelled = isinstance(found, ipaddress.IPv6Address) and (found.sixtofour or found.teredo)
    return meant.is_global and not meant.is_multicast and not meant.is_reserved and not tunnelled


def _meant(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped:
            return address.ipv4_mapped
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address
