"""Object stores and web servers, as places of zarr.

Knows how they are reached, which credentials are used, and what their errors mean. Does not know
what is stored there.

They are reached by obstore: one wheel for S3, Google Cloud Storage and web servers, with retries,
that zarr reads and writes through. Credentials come from the environment alone (``AWS_...``,
``GOOGLE_...``); where it has none, requests are not signed, as public data needs it.

A request that fails by the server's fault (5xx) or on the way is repeated with growing pauses. What
remains an error ends in one sentence, without the request: that may show what is secret.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any, TypeVar
from urllib.parse import unquote

from zarr.storage import ObjectStore

from seamscope.errors import ImageError, OutputError, SeamscopeError
from seamscope.images.addresses import Address, without_secrets

T = TypeVar("T")

TRIES = 5
"""Repetitions of a request."""

PAUSE = 0.1
"""Seconds before the first repetition; three times as long before each further one."""

_METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")
_KEYS = {
    "s3": ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
           "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_SKIP_SIGNATURE"),
    "gs": ("GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_PATH", "GOOGLE_SERVICE_ACCOUNT_KEY",
           "GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SKIP_SIGNATURE"),
}  # fmt: skip
# Where a server of one's own is named; for gs in the key, as ``gcs_base_url``.
_ENDPOINT = {"s3": "AWS_ENDPOINT_URL", "gs": "GOOGLE_SERVICE_ACCOUNT_KEY"}
_HOW = {
    "s3": "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment",
    "gs": "Set GOOGLE_APPLICATION_CREDENTIALS in the environment",
}


_PASSWORD = "Give user and password before the host (USER:PASSWORD@HOST)"


def connect(address: Address, error: type[SeamscopeError] = ImageError) -> Any:
    """Return obstore's store of an address.

    Raises
    ------
    SeamscopeError
        Of the type `error`, when obstore is not installed or the address is not well formed.
    """
    try:
        import obstore.store
    except ImportError:
        raise error(
            f"{address} is reached through obstore, which is not installed. Install it with: "
            'pip install "seamscope[remote]"'
        ) from None
    retry = {
        "max_retries": TRIES,
        "retry_timeout": timedelta(minutes=3),
        "backoff": {
            "init_backoff": timedelta(seconds=PAUSE),
            "max_backoff": timedelta(seconds=10),
            "base": 3,
        },
    }
    client: dict[str, Any] = {"connect_timeout": "10s", "timeout": "60s"}
    try:
        if not address.is_store:
            client["allow_http"] = address.scheme == "http"
            if address.secret:
                client["default_headers"] = {"Authorization": _authorization(address.secret)}
            return obstore.store.HTTPStore.from_url(
                str(address), client_options=client, retry_config=retry
            )
        kind = {"s3": obstore.store.S3Store, "gs": obstore.store.GCSStore}[address.scheme]
        if "http://" in os.environ.get(_ENDPOINT[address.scheme], ""):
            client["allow_http"] = True
        how: dict[str, Any] = {"client_options": client, "retry_config": retry}
        if not any(os.environ.get(key) for key in _KEYS[address.scheme]):
            how["skip_signature"] = True
        return kind(address.host, prefix=address.path or None, **how)
    except Exception as trouble:
        raise error(sentence(address, trouble, "reached")) from None


def _authorization(secret: str) -> str:
    """Return what a server is sent for ``user:password@``; obstore drops it from an address."""
    user, _, password = secret.removesuffix("@").partition(":")
    encoded = f"{unquote(user)}:{unquote(password)}".encode()
    return f"Basic {base64.b64encode(encoded).decode()}"


def sentence(address: Address, error: Exception, done: str) -> str:
    """Return what an error of a store means.

    Parameters
    ----------
    address
        Of what was read or written.
    error
        As obstore raised it.
    done
        What could not be done: ``"read"``, ``"written"``.
    """
    text = str(error)
    found = re.search(r"status code: (\d{3})", text)
    status = int(found[1]) if found else 0
    kind = type(error).__name__
    if "NoSuchBucket" in text or "bucket does not exist" in text:
        return (
            f"There is no bucket {address.host}: check its name, and the region and endpoint in "
            "the environment."
        )
    if status in (401, 403) or kind in ("PermissionDeniedError", "UnauthenticatedError"):
        how = _HOW.get(address.scheme, _PASSWORD)
        return f"{address} may not be {done} ({status or kind}). {how}, or ask its owner."
    if status >= 500:
        return (
            f"{address} could not be {done}: its server failed {TRIES + 1} times (status "
            f"{status}). Try again later."
        )
    if "error sending request" in text or "timed out" in text or "error decoding" in text:
        where = os.environ.get("AWS_ENDPOINT_URL") if address.scheme == "s3" else None
        host = without_secrets(where) if where else f"{address.scheme}://{address.host}"
        return (
            f"{address} could not be {done}: {host} cannot be reached. Check the network and the "
            "address."
        )
    first = without_secrets(text.strip().splitlines()[0][:200]) if text.strip() else kind
    return f"{address} could not be {done} ({first}). Check the address."


class RemoteStore(ObjectStore[Any]):
    """A store for zarr whose errors are sentences.

    Parameters
    ----------
    store
        As `connect` returns it.
    address
        Of its root.
    read_only
        Whether it is only read.
    writing
        Whether it belongs to a result: errors are `OutputError`, else `ImageError`.
    """

    def __init__(
        self, store: Any, address: Address, *, read_only: bool = False, writing: bool = False
    ) -> None:
        super().__init__(store, read_only=read_only)
        self.address = address
        self.writing = writing
        self.denied: Exception | None = None

    def __str__(self) -> str:
        return str(self.address)

    def with_read_only(self, read_only: bool = False) -> RemoteStore:
        """Return the same store, with or without the right to write."""
        return RemoteStore(self.store, self.address, read_only=read_only, writing=self.writing)

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """Read an object; None where there is none.

        Stores that may not be listed deny objects that do not exist: metadata that is denied
        counts as absent, and `denied` remembers why.
        """
        try:
            return await super().get(key, prototype, byte_range)
        except Exception as error:
            if key.rpartition("/")[2] in _METADATA and _is_denial(error):
                self.denied = error
                return None
            raise self._said(error, "read") from None

    async def get_partial_values(self, prototype: Any, key_ranges: Iterable[Any]) -> list[Any]:
        """Read parts of objects."""
        return await self._said_of(super().get_partial_values(prototype, key_ranges), "read")

    async def exists(self, key: str) -> bool:
        """Return whether there is an object."""
        return await self._said_of(super().exists(key), "read")

    async def set(self, key: str, value: Any) -> None:
        """Write an object in one step: it is whole, or not there."""
        await self._said_of(super().set(key, value), "written")

    async def delete(self, key: str) -> None:
        """Delete an object."""
        await self._said_of(super().delete(key), "written")

    async def _list(self, prefix: str | None = None) -> AsyncIterator[Any]:
        try:
            async for found in super()._list(prefix):
                yield found
        except Exception as error:
            raise self._said(error, "listed") from None

    async def _said_of(self, action: Awaitable[T], done: str) -> T:
        try:
            return await action
        except Exception as error:
            raise self._said(error, done) from None

    def _said(self, error: Exception, done: str) -> Exception:
        if isinstance(error, SeamscopeError):
            return error
        kind = OutputError if self.writing else ImageError
        return kind(sentence(self.address, error, done))


def _is_denial(error: Exception) -> bool:
    names = ("PermissionDeniedError", "UnauthenticatedError", "PermissionError")
    return type(error).__name__ in names or "status code: 403" in str(error)


def store_of(address: Address, *, writing: bool = False) -> RemoteStore:
    """Return the zarr store of an address.

    Parameters
    ----------
    address
        Of a zarr array or group.
    writing
        Whether a result is written there.

    Raises
    ------
    ImageError, OutputError
        When obstore is not installed.
    """
    found = connect(address, OutputError if writing else ImageError)
    return RemoteStore(found, address, read_only=not writing, writing=writing)


def open_node(address: Address) -> Any:
    """Return the zarr array or group at an address, for reading.

    Raises
    ------
    ImageError
        When there is none, or it may not or cannot be read.
    """
    import zarr

    ending = address.name.lower().rpartition(".")[2]
    if ending in ("tif", "tiff", "png", "jpg", "jpeg", "npy"):
        raise ImageError(
            f"{address} is a single file, which is not read over the network: download it, or "
            "store it as OME-Zarr."
        )
    store = store_of(address)
    try:
        return zarr.open(store, mode="r")
    except SeamscopeError:
        raise
    except Exception:
        if store.denied is not None:
            raise ImageError(sentence(address, store.denied, "read")) from None
        _check_bucket(address)
        raise ImageError(
            f"There is no zarr array or group at {address}: check the address. It must be the "
            "folder with zarr.json, .zarray or .zgroup."
        ) from None


def _check_bucket(address: Address) -> None:
    if address.is_store:
        list(objects(address, most=1))


def objects(address: Address, most: int | None = None, **how: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the objects inside an address: ``path`` from there, ``size``, ``last_modified``.

    Raises
    ------
    ImageError
        When they cannot be listed. With ``error=OutputError``, that.
    """
    error = how.get("error", ImageError)
    store, count = connect(address, error), 0
    import obstore

    try:
        for batch in obstore.list(store):
            for found in batch:
                if count == most:
                    return
                count += 1
                yield found
    except SeamscopeError:
        raise
    except Exception as trouble:
        raise error(sentence(address, trouble, "listed")) from None


__all__ = [
    "PAUSE",
    "TRIES",
    "RemoteStore",
    "connect",
    "objects",
    "open_node",
    "sentence",
    "store_of",
]
