"""Protocols: everything that was chosen for a prediction, in one small TOML file.

Knows what has to be noted so that a prediction can be repeated on another image, and how that is
written. Does not know commands or windows.

A protocol holds exact sizes of tile, halo and overlap. What ``"auto"`` chooses depends on the
memory of a machine, and what is repeated must not. Write ``tile = "auto"`` in the file to let each
machine choose. It never holds whether code may be trusted::

    protocol = 1

    [network]
    path = "demo:instancenorm"
    fingerprint = "5c6f0dbe2f6c3f5b"

    [settings]
    tile = [192, 192]
    halo = [[46, 46], [46, 46]]

    [recipe]
    kind = "boundaries"
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from seamscope.errors import SeamscopeError, SettingsError
from seamscope.files import disk_errors, write_file
from seamscope.images.addresses import is_address
from seamscope.images.image import Image, open_image
from seamscope.images.records import read_record
from seamscope.models.formats import Consent, format_of, load_model
from seamscope.models.formats.spec import absolute
from seamscope.models.model import Model
from seamscope.models.output_kind import OutputKind
from seamscope.models.stated import Stated
from seamscope.normalization.statistics import Statistics
from seamscope.planning.case import Case
from seamscope.serialization import plain, restore
from seamscope.settings import Settings
from seamscope.version import __version__

T = TypeVar("T")

_FORMAT = 1
_NONE = "none"  # TOML has no null
_HEAD = "# A protocol of Seamscope. To repeat it: seamscope run THIS_FILE IMAGE OUT\n\n"


@dataclass(frozen=True)
class ImageChoice:
    """What of an image's file is read; see `seamscope.images.stored.Choice`."""

    axes: str | None = None
    series: int | str | None = None
    level: int = 0
    alpha: bool = True
    nodata: float | None = None


@dataclass(frozen=True)
class Network:
    """Which network predicts.

    Attributes
    ----------
    path
        Model string, with absolute paths.
    fingerprint
        Of its weights. Another network is refused.
    format
        Of its file, for a person.
    spatial_axes, channels, input_size, step, kind, dropout, ignore_extra
        What was stated of it (see `seamscope.load_model`).
    """

    path: str
    fingerprint: str
    format: str = ""
    spatial_axes: int | None = None
    channels: int | None = None
    input_size: int | Sequence[int] | None = None
    step: int | Sequence[int] | None = None
    kind: OutputKind | None = None
    dropout: bool = True
    ignore_extra: bool = False

    @property
    def stated(self) -> Stated:
        """What was stated of it, for `seamscope.load_model`."""
        apart = ("path", "fingerprint", "format")
        return cast(Stated, {name: v for name, v in vars(self).items() if name not in apart})


@dataclass(frozen=True)
class FixedStatistics:
    """File of fixed statistics, and the hash of its numbers."""

    path: str
    digest: str


@dataclass(frozen=True)
class Protocol:
    """Everything that was chosen.

    Attributes
    ----------
    network
        None for a recipe that is applied to predictions of any program.
    settings
        Of the prediction.
    image
        What of the image's file is read.
    statistics
        None where each tile has its own.
    recipe
        How objects are made of the prediction, plain values (`seamscope.segmentation.recipe`);
        None where none are.

    Examples
    --------
    >>> import seamscope
    >>> protocol = Protocol.of(seamscope.Case.open("demo:tissue2d", "demo:instancenorm", tile=96))
    >>> protocol.settings.tile
    (96, 96)
    >>> Protocol.from_toml(protocol.to_toml()) == protocol
    True
    """

    network: Network | None = None
    settings: Settings = field(default_factory=Settings)
    image: ImageChoice = field(default_factory=ImageChoice)
    statistics: FixedStatistics | None = None
    recipe: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, case: Case, recipe: Any = None) -> Protocol:
        """Return what was chosen for a case, with the exact tiles of its plan.

        Parameters
        ----------
        case
            Its network comes from a file or is a demo network.
        recipe
            A `seamscope.segmentation.recipe.Recipe`.

        Raises
        ------
        SettingsError
            Where the network or its fixed statistics are in no file.
        """
        if case.tiles is not None:
            raise SettingsError(
                "Tiles that another program planned belong to one image, and have no place in a "
                "protocol. Leave out the grid (--grid), or the protocol."
            )
        axes = case.plan.grid.axes
        settings = (case.asked or case.settings).but(
            tile=tuple(axis.tile for axis in axes),
            halo=tuple(axis.halo for axis in axes),
            overlap=tuple(axis.overlap for axis in axes),
            memory=None,
        )
        return cls(
            network_of(case.model),
            settings,
            choice_of(case.image),
            _statistics_of(case.model),
            None if recipe is None else as_table(recipe),
        )

    def reading(self, image: Image) -> Protocol:
        """Return the same for images that are opened as this one was."""
        return dataclasses.replace(self, image=choice_of(image))

    def open_image(self, source: Any) -> Image:
        """Open an image as the protocol says."""
        return open_image(source, **vars(self.image))

    def load_network(
        self,
        path: str | None = None,
        *,
        trust: bool | Consent = False,
        statistics: str | None = None,
    ) -> Model:
        """Load the network, with its fixed statistics.

        Parameters
        ----------
        path, statistics
            Where their files are now; None for where they were.
        trust
            As for `seamscope.load_model`.

        Raises
        ------
        SettingsError
            Where it is another network, or the statistics are others.
        """
        if self.network is None:
            raise SettingsError("The protocol has no network. Give one (--model).")
        model = load_model(path or self.network.path, trust=trust, **self.network.stated)
        check_network(model, self.network.fingerprint)
        known = self.statistics
        if known is None:
            return model
        return model.with_statistics(load_statistics(statistics or known.path, known.digest))

    # -- as text

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values, without what is None."""
        parts = {name: as_table(part) for name, part in vars(self).items() if part is not None}
        return {"protocol": _FORMAT, "seamscope": __version__, **parts}

    @classmethod
    def from_json(cls, written: Mapping[str, Any]) -> Protocol:
        """Return the protocol that `to_json` wrote.

        Raises
        ------
        SettingsError
            Where it is none, or of a later version.
        """
        parts = dict(written)
        parts.pop("seamscope", None)
        number = parts.pop("protocol", None)
        if number != _FORMAT:
            raise SettingsError(
                f"protocol = {number!r}: this version of Seamscope reads protocol = {_FORMAT}. "
                "Give a protocol that seamscope predict --save-protocol wrote."
                + (" Or install a newer Seamscope." if isinstance(number, int) else "")
            )
        return restore(cls, parts)

    def to_toml(self) -> str:
        """Return the content of the file."""
        import tomlkit  # 20 ms, and only writing needs it

        return _HEAD + tomlkit.dumps(self.to_json())

    @classmethod
    def from_toml(cls, text: str) -> Protocol:
        """Return the protocol in a file's content.

        Raises
        ------
        SettingsError
            Where it is no TOML, or no protocol.
        """
        try:
            return cls.from_json(tomllib.loads(text))
        except tomllib.TOMLDecodeError as error:
            raise SettingsError(f"It is not TOML ({error}). Save it again.") from error

    def save(self, path: str | Path) -> None:
        """Write the file.

        Raises
        ------
        OutputError
            Where the disk refuses.
        """
        with disk_errors(path, "The protocol was not saved."):
            write_file(Path(path).expanduser(), self.to_toml().encode())

    @classmethod
    def load(cls, path: str | Path) -> Protocol:
        """Read the file, or the protocol that a result carries.

        Parameters
        ----------
        path
            A file in TOML, or a result of `seamscope.predict`.

        Raises
        ------
        SettingsError
            Where there is no protocol.
        """
        place = path if is_address(path) else Path(path).expanduser()
        if isinstance(place, Path) and not place.exists():
            raise SettingsError(f"There is no file {path}. Give a protocol (.toml) or a result.")
        try:
            if isinstance(place, Path) and place.suffix.lower() == ".toml":
                return cls.from_toml(place.read_text(encoding="utf8"))
            written = (read_record(place) or {}).get("protocol")
            if isinstance(written, Mapping):
                return cls.from_json(written)
        except (OSError, UnicodeDecodeError, SeamscopeError) as error:
            raise SettingsError(f"{path} is no protocol that can be used: {error}") from error
        raise SettingsError(
            f"{path} holds no protocol. Give a .toml file of seamscope predict --save-protocol, or "
            "a result of Seamscope."
        )


def check_network(model: Model, fingerprint: str) -> None:
    """Refuse another network.

    Parameters
    ----------
    model
        That was loaded.
    fingerprint
        Of the network that is needed.

    Raises
    ------
    SettingsError
        Naming both fingerprints.
    """
    if model.fingerprint != fingerprint:
        raise SettingsError(
            f"{model.spec or model.name} has the fingerprint {model.fingerprint}, and the network "
            f"of the protocol has {fingerprint}: their weights differ. Give the network of the "
            "protocol, or save a protocol with this one."
        )


def load_statistics(path: str | Path, digest: str | None = None) -> Statistics:
    """Read fixed statistics; refuse others than those of a digest.

    Raises
    ------
    ModelError
        Where the file is missing or damaged.
    SettingsError
        Where it holds other statistics.
    """
    found = Statistics.load(path)
    if digest is not None and found.digest != digest:
        raise SettingsError(
            f"{path} holds fixed statistics with the digest {found.digest}, and those of the "
            f"protocol have {digest}. Give the file of the protocol, or save a protocol with this "
            "one."
        )
    return found


def choice_of(image: Image) -> ImageChoice:
    """Return how an image was opened."""
    known = {each.name for each in dataclasses.fields(ImageChoice)}
    return ImageChoice(**{name: v for name, v in image.opened.items() if name in known})


def network_of(model: Model) -> Network:
    """Return what names a network.

    Raises
    ------
    SettingsError
        Where it comes from no file.
    """
    if model.spec is None:
        raise SettingsError(
            f"The network {model.name} was given as a Python object and has no file. Save it "
            "(torch.export), and load it by its path."
        )
    stated: Any = {name: value for name, value in model.statements.items() if value is not None}
    kind = format_of(model.spec)
    return Network(absolute(model.spec), model.fingerprint, kind, **stated)


def _statistics_of(model: Model) -> FixedStatistics | None:
    found = model.statistics
    if found is None:
        return None
    if not found.source:
        raise SettingsError(
            "The fixed statistics are in no file. Save them (the dock Network normalization, or "
            "Statistics.save), then save the protocol."
        )
    return FixedStatistics(found.source, found.digest)


def protocol_of(case: Case, recipe: Any = None) -> dict[str, Any] | None:
    """Return the protocol of a case for the record of its result; None where it has none."""
    try:
        return Protocol.of(case, recipe).to_json()
    except SeamscopeError:
        return None


def as_table(value: Any) -> dict[str, Any]:
    """Return a dataclass as TOML can hold it: fields that are None are left out.

    A field that is None against its default is written as ``"none"``.
    """
    if isinstance(value, Mapping):
        return dict(value)
    written: dict[str, Any] = plain(value)
    for each in dataclasses.fields(value):
        if written[each.name] is None and each.default is not None:
            written[each.name] = _NONE
    return {name: part for name, part in written.items() if part is not None}


def of_table(cls: type[T], table: Mapping[str, Any]) -> T:
    """Return the dataclass that `as_table` wrote.

    Raises
    ------
    SettingsError
        Where it is another one.
    """
    try:
        return restore(cls, table)
    except SettingsError:
        nothing = {name: None if v == _NONE else v for name, v in table.items()}
        return restore(cls, nothing)


__all__ = [
    "FixedStatistics",
    "ImageChoice",
    "Network",
    "Protocol",
    "as_table",
    "check_network",
    "choice_of",
    "load_statistics",
    "network_of",
    "of_table",
    "protocol_of",
]
