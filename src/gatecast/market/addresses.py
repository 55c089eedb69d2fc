"""Addresses of venues: what one is, how one stands in for others, and what of one may be shown."""

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit


def is_address(address: str) -> bool:
    """Whether a text is an http address with a host."""
    try:
        parts = urlsplit(address)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def replaced(addresses: Any, address: str) -> Any:
    """The addresses of a venue, however deeply nested, with another host; paths stay."""
    if isinstance(addresses, dict):
        return {name: replaced(value, address) for name, value in addresses.items()}
    if not isinstance(addresses, str) or "://" not in addresses:
        return addresses
    _, _, rest = addresses.partition("://")
    _, slash, path = rest.partition("/")
    return address + slash + path


def without_secrets(words: str, secrets: Iterable[str] = ()) -> str:
    """Without the query and the user of an address, and without what came from the environment."""
    words = re.sub(r"//[^/\s@]*@", "//", re.sub(r"\?\S*", "", words))
    for secret in secrets:
        words = words.replace(secret, "***")
    return words
