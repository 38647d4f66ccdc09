"""``detsearch``: exit 0 on success, 2 for what the user can mend (one line), 1 for a run that failed on its way or a
defect of ours, 130 after Ctrl-C."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence

import typer

from detsearch import __version__
from detsearch.cli import compare, data, demo, evaluate, inspect, pretrain, search, study, train, weights
from detsearch.cli.output import discard_output, log, say
from detsearch.errors import DetsearchError, UserError

OK, DEFECT, MENDABLE, INTERRUPTED = 0, 1, 2, 130

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="Design object detectors: a Pareto front of accuracy against measured latency for your data and device.",
)
for module in (demo, data, inspect, search, study, pretrain, train, compare, evaluate, weights):
    module.register(app)


def _version(show: bool) -> None:
    if show:
        say(f"detsearch {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Options before the command."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; the exit status."""
    try:
        status = typer.main.get_command(app).main(arguments, prog_name="detsearch", standalone_mode=False)
    except UserError as error:
        log(f"detsearch: {error}", error=True)
        return MENDABLE
    except typer.TyperException as error:  # unknown option, missing argument
        log(f"detsearch: {' '.join(error.format_message().split()) or 'see detsearch --help'}", error=True)
        return MENDABLE
    except (KeyboardInterrupt, typer.Abort):
        log("detsearch: interrupted", error=True)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone, as in `detsearch ... | head`
        discard_output()
        return OK
    except DetsearchError as error:  # a run that ended for a reason that is nobody's mistake, such as a diverged loss
        log(f"detsearch: {error}", error=True)
        return DEFECT
    except Exception:  # a defect of ours: all that is known about it, for the report of it
        traceback.print_exc()
        log("detsearch: this is a defect of detsearch, not of your input; please report it with the lines above")
        return DEFECT
    return status if isinstance(status, int) else OK


def main() -> None:
    """The console script."""
    sys.exit(run())
