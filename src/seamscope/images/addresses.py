"""Addresses of images and results that are not on this machine: ``s3://``, ``gs://``, ``https://``.

Knows how an address is written, and which parts of it are secret. Does not know how it is
reached (see `seamscope.images.remote`).

A user name, a password or a signed query (``?X-Amz-Signature=...``) may stand in an address. Every
text that is made of an address leaves them out: messages, records and reports.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Any, TypeGuard
from urllib.parse import urlsplit

from seamscope.errors import ImageError

SCHEMES = ("s3", "gs", "https", "http")

_ADDRESS = re.compile(
    r"\b([a-z][a-z0-9+.-]*)://(?:[^\s/]*@)?([^\s?#\"<>]*)(?:[?#][^\s\"<>]*)?", re.IGNORECASE
)


def is_address(value: Any) -> TypeGuard[str]:
    """Return whether a value is the address of something that is not on this machine."""
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://", value) if isinstance(value, str) else None
    return scheme is not None and not os.path.exists(value)


def without_secrets(text: str) -> str:
    """Return a text with user names, passwords and queries of its addresses left out.

    Examples
    --------
    >>> without_secrets("GET https://me:word@host/a.zarr?X-Amz-Signature=1 failed")
    'GET https://host/a.zarr failed'
    """
    return _ADDRESS.sub(r"\1://\2", text)


@dataclass(frozen=True, slots=True)
class Address:
    """A folder or an object in a store, or on a web server.

    Attributes
    ----------
    scheme
        One of `SCHEMES`.
    host
        Bucket, or web server with its port.
    path
        Without slashes at its ends.
    secret
        User and password of a web server, as in ``user:password@``; never shown.
    """

    scheme: str
    host: str
    path: str
    secret: str = field(default="", repr=False)

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read an address.

        Raises
        ------
        ImageError
            When it cannot be reached by this program, or names a single signed object.
        """
        shown = without_secrets(text)
        try:
            parts = urlsplit(text)
        except ValueError as error:
            raise ImageError(
                f"{shown} cannot be read as an address ({without_secrets(str(error))}): write "
                "https://HOST/PATH or s3://BUCKET/PATH."
            ) from None
        if parts.scheme.lower() not in SCHEMES:
            raise ImageError(
                f"{shown} begins with {parts.scheme}://, which is not read: use s3://, gs:// or "
                "https://, or download it."
            )
        user, _, host = parts.netloc.rpartition("@")
        path = parts.path.strip("/")
        if not host or not path:
            raise ImageError(
                f"{shown} names no folder: write {parts.scheme}://{host or 'HOST'}/PATH."
            )
        if parts.query:
            raise ImageError(
                f"{shown} was given with a query (?...), which signs one object, and zarr is made "
                "of many: give the address without it, and credentials in the environment."
            )
        return cls(parts.scheme.lower(), host, path, user and f"{user}@")

    @property
    def name(self) -> str:
        """Last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def parent(self) -> Address:
        """The folder around it; the bucket or server where there is none."""
        return Address(self.scheme, self.host, self.path.rpartition("/")[0], self.secret)

    @property
    def is_store(self) -> bool:
        """Whether it lies in an object store, which can be written to."""
        return self.scheme in ("s3", "gs")

    def __truediv__(self, name: str) -> Address:
        path = f"{self.path}/{name}".strip("/")
        return Address(self.scheme, self.host, path, self.secret)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}/{self.path}"

    def lies_in(self, other: Address) -> bool:
        """Whether it is another address, or inside it."""
        same = (self.scheme, self.host) == (other.scheme, other.host)
        return same and f"{self.path}/".startswith(f"{other.path}/")


__all__ = ["SCHEMES", "Address", "is_address", "without_secrets"]
