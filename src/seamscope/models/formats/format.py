"""What every file format of networks provides.

Knows the three functions of a format: recognise a file, list the code that loading it would run,
load it. Does not know any format.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from seamscope.errors import ModelError
from seamscope.models.formats.readable import lines, one_line
from seamscope.models.formats.spec import Spec
from seamscope.models.model import Model

EXTRAS = {
    "monai": "monai",
    "onnx": "onnx",
    "onnx2torch": "onnx",
    "onnxruntime": "onnx",
    "onnxscript": "onnx",
    "segmentation_models_pytorch": "smp",
}
"""The extra of ours that brings a package."""


@dataclass(frozen=True)
class Code:
    """Something that loading would run.

    Attributes
    ----------
    what
        One line that names it.
    digest
        SHA-256 of its content. Trust is given to exactly this content.
    text
        Its source, or what of it can be read, for a person to read before trusting it.
    unknown
        One sentence for each thing that only running it would show.
    """

    what: str
    digest: str
    text: str = ""
    unknown: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, what: str, *content: str | bytes, text: str = "", unknown: Iterable[str] = ()
    ) -> Code:
        """Return code with the digest of its content; all text is made safe to print."""
        digest = hashlib.sha256()
        for part in content:
            data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
            digest.update(len(data).to_bytes(8, "little") + data)
        shown = tuple(map(one_line, unknown))
        return cls(one_line(what), digest.hexdigest(), lines(text), shown)


@dataclass(frozen=True)
class Format:
    """A row of the table of formats.

    Attributes
    ----------
    name
        As a person reads it.
    recognises
        Whether a model string names something of this format, judged by content.
    code
        What loading it would run.
    load
        Loads it; everything that `code` lists is trusted by now.
    """

    name: str
    recognises: Callable[[Spec], bool]
    code: Callable[[Spec], tuple[Code, ...]]
    load: Callable[[Spec], Model]


def no_code(spec: Spec) -> tuple[Code, ...]:
    """Return nothing, for formats that hold only data."""
    return ()


def missing(package: str, needed_for: str) -> ModelError:
    """Return the error for a library that is not installed, with the line that installs it."""
    return ModelError(
        f"{needed_for} needs the package {package}, which is not installed: "
        f'pip install "seamscope[{EXTRAS[package]}]".'
    )


def first_sentence(error: BaseException) -> str:
    """Return the first line of an error's message, short enough for a sentence."""
    text = str(error).strip().splitlines()
    return text[0][:160].rstrip(".") if text else type(error).__name__


def damaged(path: object, kind: str, error: BaseException) -> ModelError:
    """Return the error for a file that is not what its first bytes say."""
    return ModelError(
        f"{path} cannot be read as {kind} ({type(error).__name__}: {first_sentence(error)}): it "
        "may be damaged or of another format; copy it or export it again."
    )
