"""Images and results in object stores and on web servers: the same pixels, the same rules."""

from __future__ import annotations

import base64
import contextlib
import gc
import http.client
import json
import math
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import ome_zarr_models
import pytest
import torch
import typer.testing
import zarr

import seamscope
from seamscope.cli import app
from seamscope.compare.certificate import record_to_certify
from seamscope.errors import ImageError, OutputError, SettingsError
from seamscope.execution.recipe import ImageFile, check_image_travels, check_travels
from seamscope.images import remote
from seamscope.images.addresses import Address, is_address, without_secrets
from seamscope.images.image import open_image
from seamscope.images.ngff import OmeZarr
from seamscope.images.records import read_record
from seamscope.images.results import object_store, pyramid
from seamscope.images.results.create import create_output
from seamscope.models.formats import load_model
from seamscope.planning.protocol import Protocol
from seamscope.segmentation.kept_here import folder_for
from seamscope.segmentation.stages import Stages
from seamscope.serialization import plain, restore
from watching import Seen

DATA = np.random.default_rng(3).random((64, 72)).astype("f4")
HOW: dict[str, Any] = {"tile": 32, "normalize": "none"}
SECRET = "sk-not-to-be-seen"


class StopError(Exception):
    """Ends a run as a kill would."""


def stop_after(tiles: int) -> Seen:
    def hear(phase: str, done: int) -> None:
        if phase == "Predicting" and done >= tiles:
            raise StopError

    return Seen(on_step=hear)


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Conv2d(1, 2, 3, padding=1).eval()


@contextlib.contextmanager
def serving(handler: Any) -> Iterator[str]:
    """Serve in a thread; yields host and port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# --------------------------------------------------------------------------------------------------
# A web server
# --------------------------------------------------------------------------------------------------


class Folder(SimpleHTTPRequestHandler):
    """A web server of files, which counts what it sends and fails as often as it is told to."""

    sent = 0
    failures = 0
    every = False
    password = ""

    def log_message(self, *_: Any) -> None:
        pass

    def send_head(self) -> Any:
        kind = type(self)
        if kind.password and self.headers["Authorization"] != f"Basic {kind.password}":
            self.send_error(401)
            return None
        if kind.every or (kind.failures > 0 and "/c/" in self.path):
            kind.failures -= 1
            self.send_error(500)
            return None
        return super().send_head()

    def copyfile(self, source: Any, outputfile: Any) -> None:
        content = source.read()
        type(self).sent += len(content)
        outputfile.write(content)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PAUSE", 0.005)


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path, type[Folder]]]:
    folder = tmp_path_factory.mktemp("web")
    handler = type("Handler", (Folder,), {})
    with serving(partial(handler, directory=str(folder))) as host:
        yield host, folder, handler


@pytest.fixture
def image_on_web(web: Any) -> tuple[str, Path, type[Folder]]:
    host, folder, handler = web
    if not (folder / "image.ome.zarr").exists():
        seamscope.predict(DATA, torch.nn.Identity(), folder / "image.ome.zarr", **HOW)
    return f"http://{host}/image.ome.zarr", folder, handler


def test_a_region_is_read_and_nothing_else(image_on_web: Any) -> None:
    address, _, handler = image_on_web
    image = open_image(address)
    handler.sent = 0
    block = image.read((slice(0, 20), slice(0, 20)))
    np.testing.assert_array_equal(block, DATA[:20, :20])
    assert 0 < handler.sent < DATA.nbytes / 2
    assert image.source == address


def test_failures_of_the_server_are_tried_again(image_on_web: Any) -> None:
    address, _, handler = image_on_web
    handler.failures = 3
    np.testing.assert_array_equal(open_image(address).read((slice(None),) * 2), DATA)
    assert handler.failures <= 0
    handler.failures = 0


def test_a_server_that_keeps_failing_is_one_sentence(
    image_on_web: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, _, handler = image_on_web
    monkeypatch.setattr(remote, "TRIES", 1)
    image = open_image(address)
    monkeypatch.setattr(handler, "every", True)
    with pytest.raises(ImageError, match=r"its server failed 2 times \(status 500\)"):
        image.read((slice(0, 20), slice(0, 20)))


def test_a_prediction_over_http_equals_a_local_one(image_on_web: Any, tmp_path: Path) -> None:
    address, folder, _ = image_on_web
    one = seamscope.predict(address, network(), tmp_path / "a.ome.zarr", **HOW)
    other = seamscope.predict(folder / "image.ome.zarr", network(), **HOW)
    np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def test_passwords_are_used_and_never_shown(
    image_on_web: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = image_on_web[0].replace("http://", f"http://me:{SECRET}%40@")
    out = tmp_path / "a.ome.zarr"
    known = base64.b64encode(f"me:{SECRET}@".encode()).decode()
    monkeypatch.setattr(image_on_web[2], "password", known)
    with pytest.raises(ImageError, match=r"may not be read \(401\). .*USER:PASSWORD@HOST"):
        open_image(image_on_web[0])
    image = open_image(address)
    alone = Address.parse(address.replace(f":{SECRET}%40@", "@"))
    assert base64.b64decode(remote._authorization(alone.secret)[6:]) == b"me:"
    seamscope.predict(image, network(), out, **HOW)
    assert SECRET not in json.dumps(read_record(out))
    assert SECRET not in repr(image)
    with pytest.raises(ImageError) as found:
        open_image(f"{address}-not")
    assert SECRET not in str(found.value)
    assert "There is no zarr array" in str(found.value)
    with pytest.raises(ImageError) as found:
        open_image(f"{image_on_web[0]}?X-Amz-Signature={SECRET}")
    assert SECRET not in str(found.value)
    with pytest.raises(OutputError, match="only read"):
        seamscope.predict(DATA, network(), image_on_web[0], **HOW)


def test_the_command_line_shows_no_password(image_on_web: Any, tmp_path: Path) -> None:
    """Neither in its answer, nor in a refusal, nor in the traceback of --debug."""
    address = image_on_web[0].replace("http://", f"http://me:{SECRET}@")
    runner = typer.testing.CliRunner()
    out, told = tmp_path / "a.ome.zarr", tmp_path / "told.json"
    words = ["predict", address, "demo:batchnorm", str(out), "--json", str(told), "--debug"]
    done = runner.invoke(app, words)
    assert done.exit_code == 0, done.output
    assert SECRET not in done.output + told.read_text()
    words = [words[0], f"{address}-not", words[2], "", "--debug"]
    for place in (f"{address}/out.ome.zarr", str(tmp_path / "b.ome.zarr")):
        words[3] = place
        done = runner.invoke(app, words)
        assert done.exit_code == 1
        assert "127.0.0.1" in done.output
        assert SECRET not in done.output


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://key:word@bucket/a.zarr is", "s3://bucket/a.zarr is"),
        ("GET https://h/a?sig=1,2&b=2 after", "GET https://h/a after"),
        ('"https://h:80/a#x"', '"https://h:80/a"'),
        ("user@host and a/b", "user@host and a/b"),
        ("HTTPS://me:word@host/a.zarr", "HTTPS://host/a.zarr"),
        ("https://me:p@ss@host/a.zarr", "https://host/a.zarr"),
        ("https://h/a(1).zarr?sig=word is", "https://h/a(1).zarr is"),
    ],
)
def test_what_is_secret_in_an_address_is_left_out(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


def test_addresses_that_are_not_read() -> None:
    with pytest.raises(ImageError, match=r"https://\[h/x\.zarr cannot be read as an address"):
        Address.parse("https://me:word@[h/x.zarr")
    assert not is_address("C:\\image.tif")
    assert not is_address("images/a.zarr")
    for address, words in [
        ("ftp://host/a.zarr", "is not read"),
        ("s3://bucket", "names no folder"),
        ("https://host/a.tif", "single file"),
    ]:
        with pytest.raises(ImageError, match=words):
            open_image(address)


def test_without_a_network_it_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "TRIES", 0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ImageError, match=r"cannot be reached\. Check the network"):
        open_image(f"http://127.0.0.1:{port}/a.zarr")


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in sys.modules if each.split(".")[0] == "obstore"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(ImageError, match=r'pip install "seamscope\[remote\]"'):
        open_image("s3://bucket/a.zarr")
    with pytest.raises(OutputError, match=r"seamscope\[remote\]"):
        seamscope.predict(DATA, network(), "s3://bucket/a.zarr", **HOW)


# --------------------------------------------------------------------------------------------------
# Object stores: S3 of moto's server, and obstore's own of a folder
# --------------------------------------------------------------------------------------------------


class Proxy(BaseHTTPRequestHandler):
    """Hands requests on to a server, and answers some of them with 500."""

    target = ""
    asked = 0
    failing: Callable[[int, str, str], bool] = staticmethod(lambda *_: False)
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def _pass_on(self) -> None:
        kind = type(self)
        kind.asked += 1
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if kind.failing(kind.asked, self.command, self.path):
            status, headers, content = 500, {}, b""
        else:
            there = http.client.HTTPConnection(kind.target)
            there.request(self.command, self.path, body, dict(self.headers))
            answer = there.getresponse()
            status, headers, content = answer.status, dict(answer.getheaders()), answer.read()
            there.close()
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else len(content)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass_on  # noqa: N815


@pytest.fixture(scope="module")
def endpoint() -> Iterator[tuple[str, type[Proxy]]]:
    """A real S3 endpoint behind a proxy that can fail."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(command, **quiet)
    try:
        for _ in range(200):
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/").close()
                break
            time.sleep(0.1)
        key = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, "
        made = urllib.request.Request(
            f"http://127.0.0.1:{port}/bucket",
            method="PUT",
            headers={"Authorization": f"{key}SignedHeaders=host, Signature=x"},
        )
        urllib.request.urlopen(made).close()
        handler = type("Failing", (Proxy,), {"target": f"127.0.0.1:{port}"})
        with serving(handler) as host:
            yield host, handler
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def s3(endpoint: Any, monkeypatch: pytest.MonkeyPatch) -> type[Proxy]:
    host, handler = endpoint
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setattr(handler, "failing", staticmethod(lambda *_: False))
    return handler


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An address to write to, of its own for each test."""
    if request.param == "s3":
        request.getfixturevalue("s3")
    else:
        from obstore.store import LocalStore

        def local(address: Address, *_: Any) -> Any:
            return LocalStore(prefix=tmp_path / address.host / address.path, mkdir=True)

        for module in (remote, object_store):
            monkeypatch.setattr(module, "connect", local)
    return f"s3://bucket/{request.node.name.replace('[', '-').rstrip(']')}/out.ome.zarr"


class Google(Proxy):
    """Google's interface, which is that of S3 with other headers."""

    def parse_request(self) -> bool:
        fine = super().parse_request()
        if fine:
            key = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, "
            del self.headers["Authorization"]
            self.headers["Authorization"] = f"{key}SignedHeaders=host, Signature=x"
            if self.headers["x-goog-if-generation-match"] == "0":
                self.headers["If-None-Match"] = "*"
        return fine


@pytest.fixture
def google(endpoint: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Proxy]]:
    """The same server, as ``gs://bucket``."""
    handler = type("FailingGoogle", (Google,), {"target": endpoint[1].target})
    with serving(handler) as host:
        key = {"gcs_base_url": f"http://{host}", "disable_oauth": True, "client_email": ""}
        key |= {"private_key": SECRET, "private_key_id": ""}
        monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", json.dumps(key))
        yield handler


def names_beside(address: str) -> list[str]:
    """Objects of the folder around a result which are not in it."""
    there = Address.parse(address)
    found = [str(each["path"]) for each in remote.objects(there.parent)]
    return [name for name in found if not name.startswith(f"{there.name}/")]


def test_a_result_in_a_store_equals_a_local_one(
    place: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(pyramid, "SMALLEST", 16)
    seamscope.predict(DATA, network(), place, **HOW)
    expected = seamscope.predict(DATA, network(), tmp_path / "a.ome.zarr", **HOW)
    image = open_image(place)
    np.testing.assert_array_equal(image.read((slice(None),) * 3), np.asarray(expected))
    local = zarr.open_group(tmp_path / "a.ome.zarr", mode="r")
    for level in range(4):
        found = open_image(place, level=level).read((slice(None),) * 3)
        np.testing.assert_array_equal(found, local[str(level)][...])
    record = read_record(place)
    assert record is not None
    assert record["finished"] is True
    assert SECRET not in json.dumps(record)
    assert names_beside(place) == []


def test_a_stopped_run_is_resumed_and_equals_an_uninterrupted_one(
    place: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr(pyramid, "SMALLEST", 16)
    how = {**HOW, "halo": 2}
    with pytest.raises(StopError):
        seamscope.predict(DATA, network(), place, **how, work=stop_after(4))
    assert (read_record(place) or {})["finished"] is False
    assert any("unfinished" in note for note in open_image(place).notes)
    with pytest.raises(OutputError, match=r"is unfinished.*blocks are done.*`resume=True`"):
        seamscope.predict(DATA, network(), place, **how)
    with pytest.raises(OutputError, match="begun with another image"):
        seamscope.predict(DATA + 1, network(), place, **how, resume=True)
    seamscope.predict(DATA, network(), place, **how, resume=True)
    expected = seamscope.predict(DATA, network(), **how)
    np.testing.assert_array_equal(open_image(place).read((slice(None),) * 3), np.asarray(expected))
    level = open_image(place, level=1).read((slice(None),) * 3)
    np.testing.assert_array_equal(level, pyramid.coarsened(np.asarray(expected), (1, 2, 2)))
    assert names_beside(place) == []


def test_an_older_result_is_replaced_only_when_that_is_allowed(place: str) -> None:
    seamscope.predict(DATA, torch.nn.Identity(), place, **HOW)
    with pytest.raises(OutputError, match=r"exists\. Choose another name"):
        seamscope.predict(DATA, torch.nn.Identity(), place, **HOW)
    seamscope.predict(DATA[:32, :32], torch.nn.Identity(), place, **HOW, overwrite=True)
    assert open_image(place).shape == (32, 32)
    with pytest.raises(OutputError, match="which is read"):
        seamscope.predict(place, torch.nn.Identity(), place, **HOW, overwrite=True)
    with pytest.raises(OutputError, match=r"takes \.ome\.zarr, \.zarr and"):
        seamscope.predict(DATA, torch.nn.Identity(), place.replace(".ome.zarr", ".tif"), **HOW)


def test_no_half_of_an_older_result_is_taken_for_a_whole(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while the older result is deleted, with its pixels gone and its metadata there."""
    seamscope.predict(DATA, torch.nn.Identity(), place, **HOW)
    assert (read_record(place) or {})["finished"] is True
    delete = object_store._delete

    def dying(address: Address, *names: str) -> None:
        if "zarr.json" in names:
            raise StopError
        delete(address, *names)

    monkeypatch.setattr(object_store, "_delete", dying)
    with pytest.raises(StopError):
        seamscope.predict(DATA, torch.nn.Identity(), place, **HOW, overwrite=True)
    monkeypatch.setattr(object_store, "_delete", delete)
    assert (read_record(place) or {})["finished"] is False
    with pytest.raises(ImageError, match=r"cannot be opened .* damaged or unfinished"):
        open_image(place)
    seamscope.predict(DATA, torch.nn.Identity(), place, **HOW, overwrite=True)
    np.testing.assert_array_equal(open_image(place).read((slice(None),) * 2), DATA)


def test_objects_that_are_not_zarr_are_never_deleted(place: str) -> None:
    there = Address.parse(place)
    obstore.put(remote.connect(there), "notes.txt", b"mine")
    with pytest.raises(OutputError, match="not zarr"):
        seamscope.predict(DATA, torch.nn.Identity(), place, **HOW, overwrite=True)
    assert [str(each["path"]) for each in remote.objects(there)] == ["notes.txt"]


def test_two_writers_of_one_place(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = object_store.RemoteClaim(object_store.RemotePlace(Address.parse(place)))
    with pytest.raises(OutputError, match="being written by process"):
        seamscope.predict(DATA, torch.nn.Identity(), place, **HOW)
    # of a process that ended, on this machine, it is taken over at once
    monkeypatch.setattr(object_store.psutil, "pid_exists", lambda _: False)
    seamscope.predict(DATA, torch.nn.Identity(), place, **HOW)
    monkeypatch.setattr(object_store, "_RENEWED", 0.0)
    with pytest.raises(OutputError, match="taken over by another process"):
        claim.renew()


def test_what_another_process_took_over_is_left_as_it_is(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = Address.parse(place)
    how: dict[str, Any] = {"axes": "yx", "scale": (1, 1), "units": ("pixel", "pixel")}
    first = create_output(place, DATA.shape, DATA.dtype, **how)
    first.write((slice(0, 64), slice(0, 72)), DATA)
    monkeypatch.setattr(object_store.psutil, "pid_exists", lambda _: False)
    second = object_store.RemoteClaim(object_store.RemotePlace(address))
    with pytest.raises(OutputError, match="taken over by another process"):
        first.finish()
    assert read_record(place)["finished"] is False
    there = sorted(str(each["path"]) for each in remote.objects(address.parent))
    first.discard()
    assert sorted(str(each["path"]) for each in remote.objects(address.parent)) == there
    second.confirm()
    second.remove()
    second.release()
    assert not list(remote.objects(address.parent))


def test_a_place_that_is_taken_over_while_it_is_emptied_is_not_begun(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, remove = Address.parse(place), object_store.RemoteClaim.remove
    taken = []

    def slow(claim: Any) -> None:
        remove(claim)
        monkeypatch.setattr(object_store.psutil, "pid_exists", lambda _: False)
        taken.append(object_store.RemoteClaim(object_store.RemotePlace(address)))

    monkeypatch.setattr(object_store.RemoteClaim, "remove", slow)
    with pytest.raises(OutputError, match="taken over by another process"):
        seamscope.predict(DATA, torch.nn.Identity(), place, **HOW)
    assert names_beside(place) == [".out.ome.zarr.lock"]
    taken[0].confirm()
    assert not list(remote.objects(address))


def test_writing_and_reading_survive_failures(s3: type[Proxy], monkeypatch: Any) -> None:
    """Every third request fails: reads, writes, marks and lists are repeated."""
    monkeypatch.setattr(s3, "failing", staticmethod(lambda number, *_: number % 3 == 0))
    place = "s3://bucket/failing/out.ome.zarr"
    seamscope.predict(DATA, network(), place, **HOW)
    found = open_image(place).read((slice(None),) * 3)
    np.testing.assert_array_equal(found, np.asarray(seamscope.predict(DATA, network(), **HOW)))


def test_a_store_that_fails_in_the_middle_is_resumed(s3: type[Proxy], monkeypatch: Any) -> None:
    place = "s3://bucket/broken/out.ome.zarr"
    monkeypatch.setattr(remote, "TRIES", 0)
    written: list[str] = []

    def failing(_: int, command: str, path: str) -> bool:
        if command == "PUT" and "/0/c/" in path:
            written.append(path)
        return len(written) > 3

    monkeypatch.setattr(s3, "failing", staticmethod(failing))
    with pytest.raises(OutputError, match="its server failed"):
        seamscope.predict(DATA, network(), place, **HOW)
    monkeypatch.setattr(s3, "failing", staticmethod(lambda *_: False))
    monkeypatch.setattr(remote, "TRIES", 3)
    monkeypatch.setattr(object_store.psutil, "pid_exists", lambda _: False)
    seamscope.predict(DATA, network(), place, **HOW, resume=True)
    found = open_image(place).read((slice(None),) * 3)
    np.testing.assert_array_equal(found, np.asarray(seamscope.predict(DATA, network(), **HOW)))


def test_googles_store_is_written_resumed_and_read(google: type[Proxy], monkeypatch: Any) -> None:
    """With requests that fail in between."""
    monkeypatch.setattr(pyramid, "SMALLEST", 16)
    monkeypatch.setattr(remote, "PAUSE", 0.01)
    place = "gs://bucket/folder/out.ome.zarr"
    monkeypatch.setattr(google, "failing", staticmethod(lambda number, *_: number % 5 == 0))
    with pytest.raises(StopError):
        seamscope.predict(DATA, network(), place, **HOW, work=stop_after(4))
    seamscope.predict(DATA, network(), place, **HOW, resume=True)
    expected = seamscope.predict(DATA, network(), **HOW)
    np.testing.assert_array_equal(open_image(place).read((slice(None),) * 3), np.asarray(expected))
    assert SECRET not in json.dumps(read_record(place))
    assert names_beside(place) == []
    assert google.asked > 20


# --------------------------------------------------------------------------------------------------
# Labels inside an image, and certificates
# --------------------------------------------------------------------------------------------------

FULL = (slice(None),)


def every(step: int) -> Callable[[int, str, str], bool]:
    return staticmethod(lambda number, *_: number % step == 0)  # type: ignore[return-value]


def attributes_of(address: str) -> dict[str, Any]:
    return dict(zarr.open(remote.store_of(Address.parse(address)), mode="r").attrs)


@pytest.mark.parametrize("version", ["0.5", "0.4"])
def test_labels_lie_beside_their_image(
    s3: type[Proxy], monkeypatch: Any, tmp_path: Path, version: str
) -> None:
    """Every fourth request fails; a second label image joins the first."""
    monkeypatch.setattr(s3, "failing", every(4))
    monkeypatch.setattr(pyramid, "SMALLEST", 16)
    image = f"s3://bucket/beside{version}/image.ome.zarr"
    values = seamscope.predict(DATA, network(), image, ome=OmeZarr(version), **HOW)
    cells = f"{image}/labels/cells"
    recipe = {"kind": "components", "channel": 0, "values": "logits", "threshold": 0.47}
    work = Seen()
    found = seamscope.segment(image, out=cells, work=work, **recipe)
    assert work.sentences[0].startswith(f"Until {cells} is written")
    expected = np.asarray(seamscope.segment(np.asarray(values), axes="cyx", **recipe).labels)
    assert found.count > 3
    np.testing.assert_array_equal(open_image(cells).read(FULL * 2), expected)
    with pytest.raises(OutputError, match=f"{cells} exists"):
        seamscope.segment(image, out=cells, **recipe)

    classes = f"{image}/labels/classes"
    with pytest.raises(StopError):
        seamscope.predict(image, identity(), classes, result="labels", work=stop_after(3), **HOW)
    assert listed(image) == ["cells"]
    seamscope.predict(image, identity(), classes, result="labels", resume=True, **HOW)
    np.testing.assert_array_equal(open_image(classes).read(FULL * 2), np.asarray(values).argmax(0))
    assert listed(image) == ["cells", "classes"]
    assert not [name for name in names_beside(classes) if name.startswith(".c")]  # marks, lock

    group = zarr.open_group(remote.store_of(Address.parse(image)), mode="r")
    seen = ome_zarr_models.open_ome_zarr(group)
    assert seen.labels is not None
    assert {"cells", "classes"} <= set(seen.labels.attributes.labels if version == "0.4"
                                       else seen.labels.attributes.ome.labels)  # fmt: skip


def test_labels_in_a_store_are_resumed(s3: type[Proxy], monkeypatch: Any, tmp_path: Path) -> None:
    """Basins are kept here, marks of labels there; either may be lost."""
    monkeypatch.setattr(s3, "failing", every(4))
    monkeypatch.setattr(remote, "PAUSE", 0.01)
    place, most = "s3://bucket/resumed/out.ome.zarr", [5]
    done: list[int] = []
    recipe: dict[str, Any] = {"kind": "components", "values": "logits", "axes": "yx"}
    values = np.asarray(seamscope.predict(DATA, network(), **HOW))[0]
    recipe["threshold"] = float(1 / (1 + np.exp(-np.median(values))))
    expected = np.asarray(seamscope.segment(values, fill_holes=True, **recipe).labels)
    real = Stages.carry_out

    def carry_out(stages: Stages, number: int, *more: Any) -> int:
        if len(done) == most[0]:
            raise StopError
        done.append(number)
        return real(stages, number, *more)

    monkeypatch.setattr(Stages, "carry_out", carry_out)
    monkeypatch.setattr("seamscope.images.results.create._chunks", lambda *given: (16, 16))
    how = {"out": place, "fill_holes": True, "blocks": 16, "scratch": tmp_path, **recipe}
    with pytest.raises(StopError):
        seamscope.segment(values, **how)
    with pytest.raises(OutputError, match=r"5 blocks are done.*`resume=True`"):
        seamscope.segment(values, **how)
    with pytest.raises(OutputError, match=r"another recipe fill_holes \(True, now False\)"):
        seamscope.segment(values, **how | {"fill_holes": False}, resume=True)
    blocks = math.prod(-(-n // 16) for n in values.shape)
    most[0] = 4 * blocks + 3  # in the middle of the labels
    with pytest.raises(StopError):
        seamscope.segment(values, **how, resume=True)
    assert sorted(done) == sorted(set(done))
    assert read_record(place)["finished"] is False
    most[0] += 1
    with pytest.raises(StopError):
        seamscope.segment(values, **how, resume=True)
    assert len(set(done)) == most[0]  # labels go on, too
    most[0] = 10**9
    shutil.rmtree(folder_for(place, tmp_path))  # what is kept here is lost, and blocks are others
    found = seamscope.segment(values, **how | {"blocks": (17, 16)}, resume=True)
    np.testing.assert_array_equal(open_image(place).read(FULL * 2), expected)
    np.testing.assert_array_equal(np.asarray(found.labels), expected)
    assert names_beside(place) == []
    assert not folder_for(place, tmp_path).exists()
    del found
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def identity() -> torch.nn.Module:
    return torch.nn.Conv2d(2, 2, 1).requires_grad_(False).eval().apply(_pass_on)


def _pass_on(layer: Any) -> None:
    layer.weight[:] = torch.eye(2)[:, :, None, None]
    layer.bias[:] = 0


def listed(image: str) -> list[str]:
    found = attributes_of(f"{image}/labels")
    return list(found.get("ome", found)["labels"])


def test_workers_open_images_in_stores_and_no_password_travels(
    s3: type[Proxy], image_on_web: Any
) -> None:
    place = "s3://bucket/travels/image.zarr"
    zarr.create_array(remote.store_of(Address.parse(place), writing=True), data=DATA)
    image = open_image(place)
    check_travels(image, load_model("demo:batchnorm"))
    written = json.dumps(plain(ImageFile.of(image)))
    assert SECRET not in written
    np.testing.assert_array_equal(
        restore(ImageFile, json.loads(written)).open().read(FULL * 2), DATA
    )
    protected = image_on_web[0].replace("http://", f"http://me:{SECRET}@")
    with pytest.raises(SettingsError, match="never written to a file") as refused:
        check_travels(open_image(protected), load_model("demo:batchnorm"))
    assert SECRET not in str(refused.value)
    with pytest.raises(SettingsError, match="opened in several steps"):
        check_image_travels(image.with_nodata(1).with_nodata(2))
    with pytest.raises(SettingsError, match="never written to a file"):
        seamscope.segment(open_image(protected), kind="components", on=1)


def test_what_holds_no_labels_is_one_sentence(s3: type[Proxy], monkeypatch: Any) -> None:
    image = "s3://bucket/plain/image.ome.zarr"
    with pytest.raises(ImageError, match="There is no zarr array or group at s3://bucket/plain"):
        seamscope.segment(DATA, out=f"{image}/labels/cells", kind="components")
    seamscope.predict(DATA, network(), "s3://bucket/plain/array.zarr", **HOW)
    with pytest.raises(OutputError, match="is no OME-Zarr image"):
        seamscope.segment(DATA, out="s3://bucket/plain/array.zarr/labels/cells", kind="components")
    with pytest.raises(OutputError, match=r"IMAGE.ome.zarr/labels/NAME"):
        seamscope.segment(DATA, out="s3://bucket/plain/labels/cells", kind="components")
    seamscope.predict(DATA, network(), image, **HOW)
    with pytest.raises(OutputError, match="holds images of labels"):
        seamscope.predict(DATA, network(), f"{image}/labels/values", **HOW)
    # a store that does not say is no store that holds nothing
    monkeypatch.setattr(s3, "failing", staticmethod(lambda _, how, path: "0/zarr.json" in path))
    with pytest.raises(OutputError, match=r"ome.zarr/0 could not be read.*status 500"):
        object_store.members(Address.parse(image))


def test_a_certificate_is_stored_in_a_store(
    s3: type[Proxy], monkeypatch: Any, tmp_path: Path
) -> None:
    """By the command line, with requests that fail; what cannot be certified is named at once."""
    monkeypatch.chdir(tmp_path)
    np.save("image.npy", DATA)
    network = "    torch.manual_seed(0)\n    return torch.nn.Conv2d(1, 2, 3, padding=1)"
    Path("net.py").write_text(f"import torch\ndef net():\n{network}")
    runner, result = typer.testing.CliRunner(), "s3://bucket/certified/out.ome.zarr"
    how = ["image.npy", "net.py:net", "--trust", "--axes", "yx", "--tile", "32", "--quiet"]
    assert runner.invoke(app, ["predict", *how[:2], result, *how[2:]]).exit_code == 0
    before = read_record(result)
    assert Protocol.load(result).settings.tile == (32, 32)  # as `seamscope run` reads it
    monkeypatch.setattr(s3, "failing", every(3))
    answer = runner.invoke(app, ["certify", *how, "--store", result])
    assert answer.exit_code == 0, answer.output
    record = read_record(result) or {}
    assert record.pop("certificate")["passed"] is True
    assert record == before
    assert SECRET not in json.dumps(record)
    other = [each if each != "32" else "48" for each in how]
    refused = runner.invoke(app, ["certify", *other, "--store", result])
    assert "was made with the tile [32, 32]" in refused.output.replace("\n", " ")
    for missing, said in (
        ("s3://bucket/certified/none.zarr", "There is no result s3://bucket/certified/none.zarr"),
        ("https://host/out.zarr", "is on a web server, which is only read"),
    ):
        with pytest.raises(OutputError, match=said):
            record_to_certify(missing)
    monkeypatch.setattr(
        "seamscope.compare.certificate.certify", lambda *_, **__: pytest.fail("predicted")
    )
    refused = runner.invoke(app, ["certify", *how, "--store", missing])
    assert "is on a web server" in refused.output


def test_wrong_buckets_are_one_sentence(s3: type[Proxy]) -> None:
    with pytest.raises(ImageError, match="There is no bucket nowhere"):
        open_image("s3://nowhere/a.ome.zarr")
    with pytest.raises(OutputError, match="There is no bucket nowhere"):
        seamscope.predict(DATA, network(), "s3://nowhere/a.ome.zarr", **HOW)
    with pytest.raises(ImageError, match="There is no zarr array or group at s3://bucket/none"):
        open_image("s3://bucket/none.ome.zarr")
    with pytest.raises(SettingsError, match=r"s3://bucket/none\.ome\.zarr holds no protocol"):
        Protocol.load("s3://bucket/none.ome.zarr")


def test_no_permission_is_one_sentence() -> None:
    class Denied(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            self.send_response(403)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with serving(Denied) as host, pytest.raises(ImageError, match=r"may not be read \("):
        open_image(f"http://{host}/a.zarr")
