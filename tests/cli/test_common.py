"""The help texts of all commands, as a terminal of 80 columns shows them."""

import argparse
import re
import shlex
import sys

import pytest
from conftest import load_script

from slowfast_uniformer.cli import common, main

parser_of = load_script("tools/command_reference.py").parser_of


def parsers(name: str) -> list[argparse.ArgumentParser]:
    """The parser of a command, and those of its subcommands."""
    parser = parser_of(name)
    actions = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return [parser, *(other for action in actions for other in action.choices.values())]


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("name", main.NAMES)
def test_a_help_fits_80_columns_and_begins_with_a_sentence(name):
    for parser in parsers(name):
        text = parser.format_help()
        assert not [line for line in text.splitlines() if len(line) > 80]
        sentence = " ".join(parser.description.split("\n\n")[0].split())
        assert re.fullmatch(r"[A-Z][a-z]+,? .*[^.]\.", sentence) and len(sentence) < 100


def test_the_overview_fits_80_columns():
    assert not [line for line in main.overview().splitlines() if len(line) > 80]


@pytest.mark.parametrize("name", main.NAMES)
def test_every_option_says_what_it_does_what_it_takes_and_its_default(name):
    for parser in parsers(name):
        formatter = parser._get_formatter()
        for action in parser._actions:
            if action.help == argparse.SUPPRESS:
                continue
            option = action.option_strings[-1] if action.option_strings else action.metavar
            assert action.help and not action.help.endswith("."), option
            text = formatter._expand_help(action)
            if action.default not in (None, False, "", [], argparse.SUPPRESS):
                assert text.count("(default") == 1, option
            takes_a_value = action.option_strings and action.nargs != 0
            if takes_a_value:
                assert action.metavar, f"{option}: argparse would name its value after the option itself"


@pytest.mark.parametrize("name", main.NAMES)
def test_required_options_are_in_the_usage_and_marked(name, monkeypatch):
    found = []
    monkeypatch.setattr(common, "autocomplete", lambda parser: found.append(parser) or sys.exit(0))
    with pytest.raises(SystemExit):
        main.load_command(name).parse_args([])
    formatter = found[0]._get_formatter()
    usage = found[0].format_usage()
    assert not [line for line in usage.splitlines() if len(line) > 80]
    for action in found[0]._actions:
        required = bool(action.required and action.option_strings)
        if required:
            assert f" {action.option_strings[0]} " in usage
        if action.option_strings and action.help != argparse.SUPPRESS:
            assert formatter._expand_help(action).endswith("(required)") == required


def test_options_may_stand_between_keys():
    words = "--cfg demo/uniformer a.yaml OUTPUT_DIR x --small SOLVER.MAX_EPOCH 3 SOLVER.BASE_LR -1"
    args = main.load_command("train").parse_args([*words.split(), "--num_shards", "2", "RNG_SEED", "1"])
    assert (args.cfg, args.small, args.num_shards) == (["demo/uniformer", "a.yaml"], True, 2)
    assert args.opts == "OUTPUT_DIR x SOLVER.MAX_EPOCH 3 SOLVER.BASE_LR -1 RNG_SEED 1".split()


@pytest.mark.parametrize("name", main.NAMES)
def test_the_examples_of_a_help_are_accepted(name, monkeypatch):
    """Each example of `uniformer COMMAND` parses: its options exist and have values of their type."""
    examples = re.sub(r"\\\n\s+", "", parser_of(name).description)
    lines = [line.strip() for line in examples.splitlines() if line.startswith("    uniformer ")]
    assert lines
    for line in lines:
        words = shlex.split(line.partition(" > ")[0])
        assert words[:2] == ["uniformer", name]
        main.load_command(name).parse_args(words[2:])
