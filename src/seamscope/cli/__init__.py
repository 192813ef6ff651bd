"""The command ``seamscope``.

Knows which commands there are. Each module owns one command or one family of them; what they share
is defined once:

==========  ======================================================================================
`command`   how a function becomes a command; failures as sentences and exit codes
`options`   the vocabulary: every option that more than one command takes
`work`      progress of long work, and Ctrl-C
`answer`    text for people, JSON for programs
`places`    what a command reads and writes; its parameters are checked by their names
==========  ======================================================================================

Standard output carries the answer (a plan, a model's facts, JSON), standard error all that
is said on the way (progress, notes, errors), so that either can be piped by itself.

Nothing heavy is imported before a command needs it: ``--help`` and ``--version`` answer at once.

A new command is one file and one line below. The file, here ``cli/count.py``::

    @command
    def count(
        image: ImageName, model: ModelName, *, pixels: ImageOptions, loading: ModelOptions,
        answer: Answer,
    ) -> None:
        '''Count what MODEL finds in IMAGE.'''
        with answer.work() as work:
            from seamscope.counting import count_objects

            found = count_objects(
                pixels.open(image, work.note), loading.load(model), settings_of(pixels),
                work=work,
            )
        answer.write(found.to_json(), f"{found.objects} objects.")
"""

# ruff: noqa: F401, I001  (importing a command registers it; the order is that of --help)

from __future__ import annotations

from seamscope.cli.command import app

from seamscope.cli import predict
from seamscope.cli import run
from seamscope.cli import segment
from seamscope.cli import seams
from seamscope.cli import splits
from seamscope.cli import certify
from seamscope.cli import sweep
from seamscope.cli import blends
from seamscope.cli import info
from seamscope.cli import receptive_field
from seamscope.cli import export
from seamscope.cli import demo
from seamscope.cli import normalization
from seamscope.cli import cache


def main() -> None:
    """Run the command ``seamscope``."""
    app(prog_name="seamscope")


__all__ = ["app", "main"]
