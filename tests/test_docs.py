"""What the documents say is true."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from tests.generated_docs import PAGE, README, page, readme
from tfslim_core.cli import app
from tfslim_core.registry import known

ROOT = Path(__file__).parents[1]
COMMANDS = get_command(app).commands


def documents():
    return [README, *sorted((ROOT / "docs").glob("*.md"))]


def test_what_is_generated_is_current():
    assert readme(README.read_text()) == README.read_text(), "call: make docs"
    assert page(PAGE.read_text()) == PAGE.read_text(), "call: make docs"


@pytest.mark.parametrize("one", known(), ids=lambda one: one.name)
def test_a_transforms_page_says_whether_it_enters_functions(one):
    assert re.search(r"\b(?:functions?|bod(?:y|ies))\b", one.documentation, flags=re.IGNORECASE)
    refuses = re.search(r"not\s+entered|No\s+function\s+body", one.documentation)
    assert not (one.enters_functions and refuses)


@pytest.mark.parametrize("document", documents(), ids=lambda path: path.name)
def test_commands_and_flags_in_documents_exist(document):
    shown = re.findall(r"^\s*(?:\$ )?tfslim ([a-z-]+)((?:[^\n\\]|\\\n)*)", document.read_text(), flags=re.MULTILINE)
    for name, rest in shown:
        assert name in COMMANDS, f"{document.name}: no command {name!r}"
        options = {option for parameter in COMMANDS[name].params for option in parameter.opts}
        flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", rest.partition(" -- ")[0]))
        assert flags <= options | {"--help"}, f"{document.name}: tfslim {name} has no {flags - options}"


@pytest.mark.parametrize("document", documents(), ids=lambda path: path.name)
def test_links_to_files_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
        assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_readme_names_the_two_commands_of_the_makefile():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    named = set(re.findall(r"(?:`|^ {4})make ([a-z]+)", README.read_text(), flags=re.MULTILINE))
    assert {"demo", "test"} <= named <= set(targets)
