"""``study show``, ``study analyse``, ``study table``, ``study latency`` and ``report``: what studies have found."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from detsearch.cli import options
from detsearch.cli.output import log, print_json, say, show_table

Folder = Annotated[Path, typer.Argument(help="Folder of a study.")]


def register(app: typer.Typer) -> None:
    commands = typer.Typer(no_args_is_help=True, help="Look at studies.")
    commands.command()(show)
    commands.command()(analyse)
    commands.command()(table)
    commands.command()(latency)
    app.add_typer(commands, name="study")
    app.command()(report)


def show(folder: Folder, json: options.Json = False) -> None:
    """The trials of a study, finished or running, its front marked."""
    from detsearch.search.ledger import read_study
    from detsearch.search.pareto import front

    if not json:
        print_study(folder)
        return
    study = read_study(folder)
    on_front = {trial.number for trial in front(study.trials, study.objectives)}
    print_json(
        {
            "folder": str(folder),
            "objectives": [str(objective) for objective in study.objectives],
            "front": sorted(on_front),
            "trials": [trial.to_json() for trial in study.trials],
        }
    )


def analyse(
    folder: Folder,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Write it to a file: .md, .json, or the correlations as a picture: .svg, .png, .pdf."
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """What goes with accuracy in a study: correlations of depth, width, places of the doublings and share of blocks per
    stage, over all trials, the front, and inside each structure; of a search of structures also how much each choice
    explains, and the means of its values. With 95 % intervals; `docs/searching.md` says how they are made."""
    from detsearch.report.analysis import markdown_analysis
    from detsearch.report.study import write_analysis
    from detsearch.runs.analyse import analyse_study

    found = analyse_study(folder)
    if out is not None:
        write_analysis(found, out)
    if json:
        print_json({"folder": str(folder), **found.to_json()})
        return
    say(f"{found.trials} trials of {found.epochs} epochs")
    say(markdown_analysis(found))
    if out is not None:
        say(f"analysis: {out}")


def table(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of studies of one space, each with a seed of its own, and tables of earlier ones."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file: JSON, packed if its name ends in .gz.")],
    latency: Annotated[
        Path | None,
        typer.Option(help="Latencies of `detsearch study latency`, in place of the first table's or the studies'."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Collect a recorded table, on which searches are compared, from studies that tried a whole space.

    The studies' recipes say `search.strategy: all`, and `training.eval_epochs` for figures on the way. Unfinished ones
    give what they have; repeat the command when they have more. A table among the arguments gets the studies' seeds
    and keeps its latencies: so seeds are added when the first ones' folders are long gone.
    """
    from detsearch.runs.table import collect_table

    found = collect_table(paths, out, latency)
    lacking = {str(seed): list(codes) for seed, codes in found.lacking.items()}
    if json:
        print_json({"table": str(out), "detectors": len(found.table.rows), "seeds": list(found.table.seeds),
                    "epochs": list(found.table.epochs), "lacking": lacking})  # fmt: skip
        return
    epochs = ", ".join(map(str, found.table.epochs))
    say(f"{out}: {len(found.table.rows)} detectors, scored after {epochs} epochs")
    for seed, codes in lacking.items():
        say(f"seed {seed}: " + (f"{len(codes)} were not trained yet, such as {codes[0]}" if codes else "complete"))


def latency(
    folder: Folder,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file (JSON); an existing one is gone on with.")],
    device: options.Device = None,
    rounds: Annotated[
        int, typer.Option(min=1, max=1000, help="How often all are measured; the lowest steady median of each counts.")
    ] = 1,
    settings: options.Set = None,
    json: options.Json = False,
) -> None:
    """Measure the latency of every detector of a study again, one after the other, on this or another device.

    Run it when nothing else runs. Repeat the command to go on after an interruption, and to measure once more what was
    not steady. `--set latency.seconds=2` measures longer; `--rounds 5` helps where the machine's pace changes within
    minutes, as that of virtual ones does.
    """
    from detsearch.runs.latencies import measure_again
    from detsearch.types import Latency

    def tell(number: int, count: int, code: str, found: Latency) -> None:
        log(f"{number}/{count} {code}: {found.median_ms:.2f} ms{'' if found.steady else ', not steady'}")

    found = measure_again(folder, out, device=device, settings=settings or (), rounds=rounds, on_measured=tell)
    if json:
        print_json({"latencies": str(out), "detectors": len(found.by_code), "unsteady": found.unsteady})
        return
    say(f"{out}: {len(found.by_code)} detectors, {len(found.unsteady)} not steady")


def report(
    folder: Folder,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where to write it; the study's folder if not given.")
    ] = None,
    first: Annotated[
        Path | None,
        typer.Option("--from", help="Study of structures that this one, inside of some of them, began with."),
    ] = None,
    modules: Annotated[
        Path | None, typer.Option(help="Study inside of structures of this one: those that it took are marked.")
    ] = None,
    pictures: Annotated[
        Literal["svg", "png", "pdf"] | None, typer.Option(help="Also write the figures as still pictures.")
    ] = None,
    beside: Annotated[
        int,
        typer.Option(
            min=0,
            max=100,
            help="Validation images on the page, with what a detector of the front and a known one find in them.",
        ),
    ] = 0,
    json: options.Json = False,
) -> None:
    """Write the report of a study: one self-contained HTML file, and the tables as Markdown."""
    from detsearch.report.study import write_report

    found = write_report(folder, out, first=first, modules=modules, pictures=pictures, beside=beside)
    written = [str(path) for path in found]
    if json:
        print_json({"report": written})
        return
    for path in written:
        say(path)


def print_study(folder: Path) -> None:
    """The table of a study's trials."""
    from detsearch.report.tables import terminal_table
    from detsearch.search.ledger import read_study

    study = read_study(folder)
    show_table(terminal_table(study.trials, study.objectives))
