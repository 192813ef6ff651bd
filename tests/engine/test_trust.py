"""Consent is kept where only its owner can write, and only for networks that could be loaded."""

from __future__ import annotations

import json
import os

import pytest

from seamscope.errors import ModelError, TrustError
from seamscope.models.formats import Consent, code_of, load_model, trust

NET = "import torch\ndef net(): return torch.nn.Conv2d(1, 1, 3)\n"


@pytest.fixture
def spec(tmp_path, monkeypatch):
    monkeypatch.setenv("SEAMSCOPE_CONFIG", str(tmp_path / "settings"))
    (tmp_path / "net.py").write_text(NET)
    return f"{tmp_path / 'net.py'}:net"


def notes_on_trust(model):
    return [note for note in model.notes if "untrained" not in note]


def remembered(spec):
    return load_model(spec, trust=Consent(remember=True))


def test_the_file_is_its_owners_alone(tmp_path, spec) -> None:
    before = os.umask(0)
    try:
        assert notes_on_trust(remembered(spec)) == []
    finally:
        os.umask(before)
    file = tmp_path / "settings" / "trusted.json"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert list(file.parent.iterdir()) == [file]
    assert json.loads(file.read_text()).keys() == {code.digest for code in code_of(spec)}


def test_what_only_running_shows_is_not_remembered(tmp_path, spec) -> None:
    """The text that it runs may change while all that is hashed stays the same."""
    other = tmp_path / "other.txt"
    other.write_text("")
    line = f"import pathlib; exec(pathlib.Path({str(other)!r}).read_text())"
    (tmp_path / "net.py").write_text(f"{NET}{line}\n")
    (note,) = notes_on_trust(remembered(spec))
    assert "not remembered" in note
    assert "what exec() runs is not known" in note
    other.write_text("pathlib.Path(__file__).with_name('ran').touch()")
    with pytest.raises(TrustError):
        load_model(spec)
    assert not (tmp_path / "ran").exists()
    load_model(spec, trust=True)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("place", ["settings/trusted.json", "settings", "."])
@pytest.mark.parametrize("mode", [0o020, 0o002])
def test_what_others_can_write_does_not_count(tmp_path, spec, place, mode) -> None:
    remembered(spec)
    load_model(spec)
    found = tmp_path / place
    own = found.stat().st_mode & 0o777
    found.chmod(own | mode)
    if place == "." and mode == 0o020:  # a group of one's own is common, above the settings
        load_model(spec)
        return
    with pytest.raises(TrustError, match="can be written by other users") as caught:
        load_model(spec)
    assert f"chmod go-w '{found.resolve()}'" in str(caught.value)
    # and nothing is added to it
    (note,) = notes_on_trust(remembered(spec))
    assert "not remembered" in note
    found.chmod(own)
    load_model(spec)


def test_a_folder_of_everybodys_with_the_sticky_bit_does_no_harm(tmp_path, spec) -> None:
    remembered(spec)
    tmp_path.chmod(0o1777)
    load_model(spec)


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="needs another owner")
@pytest.mark.parametrize("place", ["settings/trusted.json", "settings"])
def test_a_file_of_another_user_does_not_count(tmp_path, spec, place) -> None:
    remembered(spec)
    os.chown(tmp_path / place, 12345, 12345)
    with pytest.raises(TrustError, match="belongs to another user"):
        load_model(spec)


def test_a_link_counts_as_what_it_points_to(tmp_path, spec, monkeypatch) -> None:
    remembered(spec)
    (tmp_path / "link").symlink_to(tmp_path / "settings")
    monkeypatch.setenv("SEAMSCOPE_CONFIG", str(tmp_path / "link"))
    load_model(spec)
    (tmp_path / "settings").chmod(0o777)
    with pytest.raises(TrustError):
        load_model(spec)


def test_what_could_not_be_loaded_is_not_remembered(tmp_path, spec) -> None:
    (tmp_path / "net.py").write_text("raise RuntimeError\n")
    with pytest.raises(ModelError):
        remembered(spec)
    assert not trust.trusted(code.digest for code in code_of(spec))
    (tmp_path / "net.py").write_text("def net(): return 3\n")
    with pytest.raises(ModelError):
        remembered(spec)
    assert not (tmp_path / "settings").exists()


def test_consent_is_to_the_code_that_was_shown(tmp_path, spec) -> None:
    shown = Consent(frozenset(code.digest for code in code_of(spec)), remember=True)
    (tmp_path / "net.py").write_text(f"{NET}# changed while it was read\n")
    with pytest.raises(TrustError):
        load_model(spec, trust=shown)
    (tmp_path / "net.py").write_text(NET)
    load_model(spec, trust=shown)


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000])
def test_a_damaged_file_trusts_nothing_and_is_replaced(tmp_path, spec, content) -> None:
    (tmp_path / "settings").mkdir(mode=0o700)
    (tmp_path / "settings" / "trusted.json").write_text(content)
    with pytest.raises(TrustError):
        load_model(spec)
    remembered(spec)
    load_model(spec)
