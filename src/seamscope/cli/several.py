"""One command for many images: a pattern or a folder in place of an image.

Knows how a command is repeated, and how its answers become one table and one record. Does not know
any command. Each image is a command of its own, except its network, which is loaded and measured
once, and workers on this machine, which are started once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import typer

from seamscope.cli import places
from seamscope.cli.answer import Answer, answer_in, columns, gathered
from seamscope.cli.options import LOADED, group_of
from seamscope.cli.wording import in_command
from seamscope.errors import OutputError
from seamscope.text import duration_text

SEVERAL = {"predict": "image", "segment": "prediction", "seams": "image", "run": "image"}
"""Commands that take several images, and the parameter that names them."""

_PATTERNS = ("report_file", "layers", "table", "corrections")  # one file for each image

Explain = Callable[[BaseException], tuple[str, int]]


@dataclass
class _Done:
    image: str
    out: str | None
    state: Literal["done", "skipped", "stopped", "failed"] = "failed"
    sentence: str = ""
    seconds: float = 0.0
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def row(self) -> tuple[str, str]:
        """What became of it, for a table."""
        name = Path(self.image).name
        if self.state == "failed":
            return name, f"failed: {self.sentence}"
        if self.state == "stopped":
            return name, "stopped"
        if self.state == "skipped":
            return name, f"{self.out}: done before" if self.out else "done before"
        where = f"{self.out}: " if self.out else ""
        return name, f"{where}{_result(self.record)}, {duration_text(self.seconds)}"


def _result(record: Mapping[str, Any]) -> str:
    """The one thing to know of a result."""
    if record.get("dry_run"):
        return f"{_tiles(record['plan']['tiles'])}, not predicted"
    if "objects" in record:
        return f"{record['objects']} objects"
    measured = record.get("figures", {}).get("seams") or record
    if "max_dist" in measured:
        return f"max difference at seams {measured['max_dist']:.3g}"
    return _tiles(record.get("figures", {}).get("tiles", 1))


def _tiles(count: int) -> str:
    return f"{count} tile{'s' * (count != 1)}"


def images_of(command: str | None, given: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the images of a command with several, None of one with one."""
    name = given.get(SEVERAL.get(command or "", ""))
    if not isinstance(name, str):
        return None
    # without a heavy import for a plain file
    if Path(name).expanduser().is_file() or not (set("*?[") & set(name) or Path(name).is_dir()):
        return None
    from seamscope.images.folders import images_in

    return images_in(name)


def repeat(
    command: str,
    images: Sequence[str],
    given: Mapping[str, Any],
    act: Callable[[dict[str, Any]], Any],
    explain: Explain,
    say: Callable[[str], None],
) -> None:
    """Carry a command out for each image.

    Parameters
    ----------
    command
        Its name.
    images
        None of them stops the others.
    given
        Its parameters.
    act
        Carries it out with the parameters of one image.
    explain
        Returns sentence and exit code of an error.
    say
        Shows a sentence.
    """
    answer = group_of(Answer, given)
    images = _left(images, given)
    each = _each(command, images, given)
    places.check({**given, SEVERAL[command]: None, **dict.fromkeys(("out", *_PATTERNS))})
    found: list[_Done] = []
    code = 0
    from seamscope.execution.pool import keep_workers

    with LOADED.kept(), keep_workers():
        for number, parameters in enumerate(each):
            image = parameters[SEVERAL[command]]
            if not answer.quiet:
                say(f"Image {number + 1} of {len(each)}: {image}")
            done = _Done(image, parameters.get("out"))
            found.append(done)
            code = _one(done, parameters, act, explain)
            if done.state == "failed":
                say(f"{image}: {done.sentence}")
            if done.state == "stopped":
                break
    _conclude(answer, found, images, code, _how_to_continue(given), say)


def _how_to_continue(given: Mapping[str, Any]) -> str:
    if "resume" in given and ("out" in given or given.get("report_file")):
        return "repeat the command with --resume"
    return "repeat the command for these images"


def _one(
    done: _Done, parameters: dict[str, Any], act: Callable[[dict[str, Any]], Any], explain: Explain
) -> int:
    """Carry a command out for one image; return its exit code."""
    begin = time.perf_counter()
    code = 0
    with gathered() as answers:
        try:
            places.check(parameters)
            act(parameters)
        except typer.Exit as end:
            code = end.exit_code
        except BaseException as error:
            sentence, code = explain(error)
            done.sentence = in_command(sentence)
            if LOADED.failed is error and code != 130:  # no image would do better
                raise
    done.seconds = time.perf_counter() - begin
    done.record = answers[-1] if answers else {}
    done.sentence = done.sentence.removeprefix("Error: ")
    if code == 130:  # by the user
        done.state = "stopped"
    elif code:
        done.sentence = done.sentence or f"it ended with {code}"
    else:
        done.state = "skipped" if done.record.get("skipped") else "done"
    return code


def _left(images: Sequence[str], given: Mapping[str, Any]) -> Sequence[str]:
    """Return the images without results of an earlier run that is resumed."""
    if not given.get("resume") or "out" not in given:
        return images
    from seamscope.images.folders import names_for, place_of, without_results

    return without_results(images, [place_of(given["out"], name) for name in names_for(images)])


def _each(command: str, images: Sequence[str], given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the parameters for each image."""
    from seamscope.images.folders import check_apart, make_folders, names_for, place_of

    names = names_for(images)
    outs = {name: given[name] for name in _PATTERNS if given.get(name) is not None}
    for option, value in outs.items():
        if "*" not in value:
            raise OutputError(
                f"--{option.removesuffix('_file')} {value} is one file, and there are "
                f"{len(images)} images. Write * for the image's name, as in reports/*.html."
            )
    each = []
    for image, name in zip(images, names, strict=True):
        own: dict[str, Any] = {SEVERAL[command]: image, "json_file": None}
        own |= {option: value.replace("*", name) for option, value in outs.items()}
        if "out" in given:
            own["out"] = place_of(given["out"], name)
        each.append({**given, **own})
    if not given.get("dry_run"):
        written = [own[name] for own in each for name in ("out", *outs) if name in own]
        check_apart(images, written)
        make_folders(written)
    return each


def _conclude(
    answer: Answer, found: Sequence[_Done], images: Sequence[str], code: int, then: str, say: Any
) -> None:
    """Answer with a table and a record; end with an exit code where images failed."""
    states = [done.state for done in found]
    counts = {state: states.count(state) for state in ("done", "skipped", "stopped", "failed")}
    record = {
        "images": _with_earlier(found, answer_in(answer.json_file)),
        **counts,
        "left": len(images) - len(found),
    }
    answer.write(record, columns([done.row for done in found]))
    if code == 130:
        left = len(images) - counts["done"] - counts["skipped"]
        begun = f"{record['left']} of them were not begun"
        say(f"Stopped: {left} of {len(images)} images are not done, {begun}. To go on, {then}.")
        raise typer.Exit(130)
    if counts["failed"]:
        failed = ", ".join(Path(done.image).name for done in found if done.state == "failed")
        others = " The others are done." * (counts["failed"] < len(images))
        say(
            f"{counts['failed']} of {len(images)} images failed: {failed}.{others} "
            f"Correct what the messages say, then {then}."
        )
        raise typer.Exit(1)


def _with_earlier(found: Sequence[_Done], earlier: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what became of all images, with the numbers of those that were done before."""
    known = {each["image"]: each for each in earlier.get("images", ()) if "image" in each}
    rows = [
        known[done.image] | {"state": "skipped"}
        if done.state == "skipped" and done.image in known
        else vars(done)
        for done in found
    ]
    now = {done.image for done in found}
    return [each | {"state": "skipped"} for name, each in known.items() if name not in now] + rows


__all__ = ["SEVERAL", "images_of", "repeat"]
