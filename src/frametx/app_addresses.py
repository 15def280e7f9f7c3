"""The names under which a page may be asked for."""

import ipaddress
import socket
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit


def own_addresses(host: str, port: int, allowed: Iterable[str] = ()) -> Callable[[str], bool]:
    """Whether a Host header names a page that listens at `host` and `port`.

    A page for this machine only has the names of this machine, with its port. One for the network
    is also reached by addresses in numbers, which no other site can let point to it, by this
    machine's own name, and through ports that others forward.

    Args:
        host: where it listens.
        port: likewise.
        allowed: more names, with a port or without, for proxies and tunnels.
    """
    is_for_all = not is_loopback(host)
    names = {"localhost", "127.0.0.1", "::1", host.strip("[]").lower()}
    if is_for_all:
        own = socket.gethostname().lower()
        names |= {own, own.partition(".")[0], f"{own.partition('.')[0]}.local"}
    more = {name.lower() for name in allowed}

    def is_own(header: str) -> bool:
        try:
            parts = urlsplit(f"//{header.lower()}")
            name, its_port = parts.hostname or "", parts.port or 80
        except ValueError:
            return False
        if "@" in header or "/" in header or parts.netloc != header.lower():
            return False
        if header.lower() in more or name in more:
            return True
        return (is_for_all or its_port == port) and (name in names or (is_for_all and _is_ip(name)))

    return is_own


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _is_ip(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
