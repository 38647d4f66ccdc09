"""``describe``, ``latency``, ``modules``, ``space``, ``schema``: what a detector is and costs, what may be written."""

from __future__ import annotations

from typing import Annotated, Literal

import typer
from rich.table import Table

from detsearch.arch.catalogue import catalogue
from detsearch.arch.code import module_fields
from detsearch.arch.presets import PRESETS, resolve, resolve_backbone
from detsearch.cli import options
from detsearch.cli.output import print_json, quantity, say, show_table
from detsearch.cli.tables import published_lines
from detsearch.types import InputSize
from detsearch.yamlfile import Section

Classes = Annotated[int, typer.Option("--classes", "-c", min=1, max=100_000, help="Number of classes.")]


def register(app: typer.Typer) -> None:
    app.command()(describe)
    app.command()(latency)
    app.command()(modules)
    app.command()(space)
    app.command()(schema)


def describe(
    detector: options.Detector,
    input: options.Input = None,
    classes: Annotated[
        int | None,
        typer.Option("--classes", "-c", min=1, max=100_000, help="Classes: 80 if not given, 1000 of a backbone."),
    ] = None,
    backbone: Annotated[
        bool,
        typer.Option("--backbone", help="The backbone alone, as a classifier: a backbone's code, or a detector's."),
    ] = False,
    json: options.Json = False,
) -> None:
    """What a detector is made of and what it costs: parameters, MACs and memory access, whole and by part; of cells in
    its head, the receptive field of every edge, node by node. What a paper says of its detector stands below, marked as
    published."""
    size = None if input is None else InputSize.parse(input)
    if backbone:
        module, norm, at = resolve_backbone(detector, size)
    else:
        spec = resolve(detector, size)
    from detsearch.runs import inspect

    if backbone:
        found = inspect.describe_backbone(module, at, classes or inspect.CATEGORIES, norm=norm)
    else:
        found = inspect.describe(spec, classes or inspect.OBJECTS)
    if json:
        print_json(found)
        return
    say(f"{found['code']}")
    say(f"{found['classes']} classes, one image of {found['tensor']} (input {found['input']} padded)")
    if found["regions"]:
        say("counted with " + " and ".join(f"{number:,} {what}" for what, number in found["regions"].items()))
    for place, cell in found.get("cells", {}).items():
        seen = " | ".join(" ".join(map(str, node)) for node in cell["receptive_fields"])
        origin = f"; {cell['origin']}" if cell["origin"] else ""
        say(f"head.{place}: {cell['cell']}; receptive fields {seen}{origin}")
    table = Table(box=None, pad_edge=False)
    table.add_column("part")
    for title in ("parameters", "MACs", "memory access"):
        table.add_column(title, justify="right")
    for name, part in [*found["parts"].items(), ("whole", found)]:
        table.add_row(name, *(quantity(part[key]) for key in ("params", "macs", "memory_access")))
    show_table(table)
    if "published" in found:
        for line in published_lines(found["published"]):
            say(line)


def latency(
    detector: Annotated[str, typer.Argument(help="Preset, code, file with one, or a checkpoint (.pt).")],
    input: options.Input = None,
    classes: Classes = 80,
    device: options.Device = None,
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="CPU threads; one per core if not given.")
    ] = None,
    runs: Annotated[int, typer.Option(min=3, max=100_000, help="Least number of timed runs.")] = 20,
    seconds: Annotated[float, typer.Option(min=0.01, max=600, help="Least duration of the measurement.")] = 1.0,
    json: options.Json = False,
) -> None:
    """Measure latency, alone on the device: batch 1, image on the device, post-processing at a fixed load."""
    from detsearch.runs.inspect import measure_latency

    size = None if input is None else InputSize.parse(input)
    found = measure_latency(
        detector, size, classes, device=device or "auto", threads=threads, runs=runs, seconds=seconds
    )
    if json:
        print_json(found)
        return
    protocol = found["protocol"]
    say(found["code"])
    say(f"{found['median_ms']:.2f} ms (median), interquartile range {found['iqr_ms']:.2f} ms, {found['runs']} runs")
    say(f"on {protocol['device_name']} ({protocol['device']}), {protocol['runtime']}, {protocol['precision']}, "
        f"{protocol['threads']} threads, batch {protocol['batch']}, input {protocol['input']}")  # fmt: skip
    say(f"includes {protocol['includes']}")
    say(f"excludes {protocol['excludes']}")
    if not found["steady"]:
        say("NOT STEADY: the clock drifted or the spread is wide; something else runs on this device")


def modules(json: options.Json = False) -> None:
    """The modules that a detector can be made of, their fields with defaults, and the presets."""
    known = catalogue()
    if json:
        rows = [
            {
                "slot": d.slot,
                "token": d.token,
                "names": list(d.names),
                "summary": d.summary,
                "fields": [field._asdict() for field in module_fields(d.spec)],
            }
            for d in known
        ]
        print_json({"modules": rows, "presets": dict(PRESETS)})
        return
    for d in known:
        names = f" (also {', '.join(d.names)})" if d.names else ""
        say(f"{d.slot:10} {d.token}{names}: {d.summary}")
        for field in module_fields(d.spec):
            written = f"{field.name}, no default" if field.default is None else f"{field.name}={field.default}"
            say(f"{'':10}   {written}: {field.accepts}")
    say()
    for name, text in PRESETS.items():
        say(f"{name}: {text}")


def space(recipe: options.SearchRecipe = None, settings: options.Set = None, json: options.Json = False) -> None:
    """How many detectors the space of a search recipe holds, and of what; without a recipe the default space."""
    from detsearch.arch.spaces.section import read_space
    from detsearch.runs.recipe import load_recipe
    from detsearch.runs.settings import SearchRecipe

    no_data = {"data.file": "synthetic"} if recipe is None else None  # a space needs none
    found = read_space(load_recipe(SearchRecipe, recipe, settings or (), no_data).space)
    choices = found.to_choices()
    if json:
        print_json({"size": found.size(), "choices": choices})
        return
    say(f"{found.size()} detectors")
    for part, texts in choices.items():
        if isinstance(texts, dict):
            say("\n".join(f"{name}: {value}" for name, value in texts.items()))
        else:
            say(f"{part}, {len(texts)}: {'; '.join(texts)}")


def schema(
    kind: Annotated[
        Literal["train", "pretrain", "search", "all", "head", "compare", "data"],
        typer.Argument(help="Kind of recipe; data: a data file."),
    ],
) -> None:
    """Print the JSON Schema of a recipe or a data file, for editors."""
    from detsearch.data.datafile import datafile_schema
    from detsearch.runs.pretrain_recipe import PretrainRecipe
    from detsearch.runs.settings import CompareRecipe, HeadSearchRecipe, SearchRecipe, StagesRecipe, TrainRecipe

    if kind == "data":
        print_json(datafile_schema())
    else:
        kinds: dict[str, type[Section]] = {
            "train": TrainRecipe,
            "pretrain": PretrainRecipe,
            "search": SearchRecipe,
            "all": StagesRecipe,
            "head": HeadSearchRecipe,
            "compare": CompareRecipe,
        }
        print_json(kinds[kind].model_json_schema())
