"""What a detector of the front finds beside a known one."""

from __future__ import annotations

import base64
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from detsearch.arch.code import format_network, parse_detector
from detsearch.build import build
from detsearch.cli.main import MENDABLE, OK, run
from detsearch.errors import StudyError
from detsearch.report.beside import beside_known
from detsearch.report.html import html_report
from detsearch.report.tables import markdown_report
from detsearch.report.view import Beside
from detsearch.runs.recipe import load_recipe
from detsearch.runs.settings import DataSettings, SearchRecipe
from detsearch.search.ledger import StudyRecord, read_study
from detsearch.training.checkpoint import Checkpoint, CheckpointMeta, save_checkpoint
from tests.report.fakes import trial, view
from tests.report.test_html import NASTY, Page
from tests.runs.conftest import DATA, FINDING
from tests.runs.made import write_study

CODES = tuple(FINDING.replace("width=16", f"width={width}") for width in (16, 8, 24))
CLASSES = ("circle", "rectangle", "triangle")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Three trials, all on the front, whose weights are as they were drawn; the second one is named in the recipe."""
    data = tmp_path / "data.yaml"
    data.write_text(yaml.safe_dump(DATA))
    raw = {"data": {"file": str(data)}, "space": {"detectors": list(CODES)}, "search": {"start": [CODES[1]]}}
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(raw))
    recipe = load_recipe(SearchRecipe, tmp_path / "search.yaml", ["training.epochs=1"])
    rows = [(CODES[0], 0.4, 9.0), (CODES[1], 0.3, 5.0), (CODES[2], 0.42, 20.0)]
    folder = write_study(tmp_path / "a study", recipe, rows)
    for number, code in enumerate(CODES):
        save(folder, number, code)
    return folder


def save(folder: Path, number: int, code: str) -> Path:
    torch.manual_seed(number)
    spec = parse_detector(code)
    weights = build(spec.network, len(CLASSES)).state_dict()
    meta = CheckpointMeta(
        network=format_network(spec.network),
        input=str(spec.input),
        classes=CLASSES,
        settings={},
        seed=0,
        epoch=1,
        step=2,
        seconds=1.0,
    )
    path = folder / "trials" / f"{number:04d}" / "checkpoint.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(path, Checkpoint(meta, weights))
    return path


def pair(record: StudyRecord, known: dict[int, str], *parts: frozenset[int]) -> tuple[str, str] | None:
    found = beside_known(record, known, parts, DataSettings(file="none.yaml"))
    return None if found is None else found.names


def test_the_first_of_the_front_is_beside_a_known_detector_of_its_structure(study: Path) -> None:
    record = read_study(study)
    assert pair(record, {1: "baseline 1"}) == ("trial 0", "trial 1, baseline 1"), "0 dominates most alone"
    assert pair(record, {0: "a", 1: "b"}) == ("trial 2", "trial 0, a")
    parts = frozenset({0}), frozenset({1, 2})
    assert pair(record, {0: "a", 1: "b"}, *parts) == ("trial 2", "trial 1, b")
    assert pair(record, {0: "a", 1: "b", 2: "c"}) is None, "nothing new on the front"
    assert pair(record, {}) is None
    assert pair(replace(record, trials=()), {1: "b"}) is None
    (study / "trials" / "0000" / "checkpoint.pt").unlink()
    assert pair(record, {1: "b"}) == ("trial 2", "trial 1, b")
    (study / "trials" / "0001" / "checkpoint.pt").unlink()
    assert pair(record, {1: "b"}) is None
    with pytest.raises(StudyError, match="a known one"):
        beside_known(record, {1: "b"}, [], DataSettings(file="none.yaml"), 2)


def test_the_command_draws_and_images_stand_on_the_page(
    tmp_path: Path, study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["report", str(study)]) == OK
    command = (
        f"detsearch predict '{study}/trials/0000/checkpoint.pt' IMAGES --beside '{study}/trials/0001/checkpoint.pt' "
        f"--threshold 0.5 --out '{study}-beside'"
    )
    page = Page((study / "report.html").read_text())
    assert command in page.read
    assert command in (study / "report.md").read_text()
    assert f"detsearch report '{study}' --beside 6" in page.read
    assert not any(tag == "img" for tag, _ in page.elements)

    assert run(["report", str(study), "--beside", "3"]) == OK
    page = Page((study / "report.html").read_text())
    sources = [attributes["src"] or "" for tag, attributes in page.elements if tag == "img"]
    assert len(sources) == 3
    assert "evenly spaced" in page.read
    kind = "data:image/jpeg;base64,"
    assert all(source.startswith(kind) for source in sources)
    images = [Image.open(BytesIO(base64.b64decode(source.removeprefix(kind)))) for source in sources]
    assert all(image.width > 2 * DATA["width"] for image in images), "side by side"
    assert len(set(sources)) == 3
    assert run(["report", str(study), "--beside", "50"]) == OK
    page = Page((study / "report.html").read_text())
    assert sum(tag == "img" for tag, _ in page.elements) == DATA["splits"]["val"]["images"], "no more than there are"
    capsys.readouterr()

    (study / "trials" / "0001" / "checkpoint.pt").write_bytes(b"no checkpoint")
    assert run(["report", str(study), "--beside", "1"]) == MENDABLE
    assert "0001/checkpoint.pt" in capsys.readouterr().err


def test_hostile_names_do_nothing() -> None:
    trials = [trial(0, 0.3, 5.0)]
    told = Beside(names=(NASTY, NASTY), threshold=0.5, commands={NASTY: NASTY}, split=NASTY, pictures=((NASTY, ""),))
    known = view(trials, beside=told)
    page = Page(html_report(known, trials))
    assert len(page.scripts["javascript"]) == 2
    assert page.read.count(NASTY) == 6
    assert [attributes["alt"] for tag, attributes in page.elements if tag == "img"] == [f"Detections in {NASTY}"]
    assert "```sh" in markdown_report(known, trials)
