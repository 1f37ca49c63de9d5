"""What a hosting service reads: the licence, the citation, issue forms and the workflow."""

import hashlib
import os
import re
import runpy

import pytest
import setuptools
import yaml
from conftest import ROOT

from slowfast_uniformer import __version__

# The text that apache.org publishes, without spaces at line ends and empty lines
APACHE = "c1b008ce70743345f76c4b87a550d8a848386901"
PAPERS = {"arXiv:2201.04676": ("ICLR", 7), "arXiv:2201.09450": ("Pattern Analysis", 8), "arXiv:2211.09552": ("ICCV", 7)}
FORMS = sorted(path.name for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*_*.yml"))


def read(path: str):
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


@pytest.fixture
def metadata(monkeypatch) -> dict:
    """What setup.py gives to setuptools."""
    given: dict = {}
    monkeypatch.setattr(setuptools, "setup", given.update)
    monkeypatch.chdir(ROOT)
    runpy.run_path("setup.py")
    return given


def test_the_licence_is_apache_2(metadata):
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Copyright the slowfast_uniformer authors" in text
    published = text.replace("Copyright the slowfast_uniformer authors", "Copyright [yyyy] [name of copyright owner]")
    lines = "\n".join(line.rstrip() for line in published.splitlines() if line.strip())
    assert hashlib.sha1(lines.encode()).hexdigest() == APACHE
    assert metadata["license"] == read("CITATION.cff")["license"] == "Apache-2.0"
    assert metadata["license_files"] == ["LICENSE"]


def test_the_citation_names_this_version_and_the_papers(metadata):
    citation = read("CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()  # required by version 1.2.0 of the format
    assert str(citation["version"]) == metadata["version"] == __version__
    found = {}
    for paper in citation["references"]:
        assert {"type", "title", "authors"} <= paper.keys()
        (number,) = [each["value"] for each in paper["identifiers"]]
        venue, authors = PAPERS[number]
        found[number] = venue in paper.get("collection-title", paper.get("journal")), len(paper["authors"]) == authors
        assert paper["url"].endswith(number.removeprefix("arXiv:"))
    assert found == dict.fromkeys(PAPERS, (True, True))


@pytest.mark.parametrize("name", FORMS)
def test_issue_forms_can_be_filled_in(name):
    """The rules of GitHub's forms: https://docs.github.com, "Syntax for GitHub's form schema"."""
    form = read(f".github/ISSUE_TEMPLATE/{name}")
    assert {"name", "description", "body"} <= form.keys()
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert fields and len({field["id"] for field in fields}) == len(fields)
    for field in fields:
        assert field["type"] in ("textarea", "input", "dropdown", "checkboxes") and field["attributes"]["label"]
        assert (field["type"] == "dropdown") == ("options" in field["attributes"])


def test_the_workflow_calls_ci_run_on_the_oldest_python_and_a_newer_one(metadata):
    workflow = read(".github/workflows/ci.yml")
    assert {"push", "pull_request"} == workflow[True].keys()  # YAML 1.1 reads `on` as true
    (job,) = workflow["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step][-1] == ".ci/run"
    assert os.access(ROOT / ".ci/run", os.X_OK)
    oldest, *newer = job["strategy"]["matrix"]["python"]
    assert metadata["python_requires"] == f">={oldest}" and newer
    assert workflow["permissions"] == {"contents": "read"}
    assert not re.search(r"secrets\.", (ROOT / ".github/workflows/ci.yml").read_text())
