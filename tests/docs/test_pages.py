"""The pages tell the truth: their Python runs, their commands exist, their version is the package's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mktestdocs import check_md_file

import gatewise
from gatewise.catalogue import ALIASES, METHODS, method_named

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page):
    check_md_file(fpath=page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_methods_named_in_commands_can_be_built(page):
    for named in re.findall(r"--method ([\w:=.,-]+)", page.read_text()):
        method_named(named)


def test_changelog_begins_with_this_version():
    versions = re.findall(r"^## \[([\d.]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == gatewise.__version__
    assert f'version = "{gatewise.__version__}"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("name", sorted({*METHODS, *ALIASES}))
def test_readme_lists_every_method(name):
    assert f"`{name}`" in (ROOT / "README.md").read_text()
