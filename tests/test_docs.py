"""The pages keep their word: commands are understood by the programs that they start, keys and files exist,
links lead somewhere, and every program is run by some test."""

import ast
import functools
import importlib
import importlib.util
import itertools
import json
import re
import shlex
import shutil
import sys
import textwrap
from pathlib import Path

import pytest
from conftest import ROOT, exit_status, load_script

import slowfast_uniformer
from slowfast_uniformer.cli import main
from slowfast_uniformer.config.compat import RENAMED, RETIRED
from slowfast_uniformer.config.keys import flatten, get_cfg
from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.models.registry import MODEL_REGISTRY


def page_text(path: Path) -> str:
    """A page as Markdown, also that of a notebook, without its outputs."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = [("".join(cell["source"]), cell["cell_type"]) for cell in json.loads(text)["cells"]]
    return "\n\n".join(f"```python\n{text}\n```" if kind == "code" else text for text, kind in cells)


PATTERNS = ("README.md", "INSTALL.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md", "docs/*.ipynb", "datasets/*.md")
# by `make docs`, of what is tested
GENERATED = {"commands.md", "install.md", "datasets.md", "dataset_format.md", "contributing.md", "changelog.md"}
FOUND = [path for pattern in PATTERNS for path in sorted(ROOT.glob(pattern))]
PATHS = [path for path in FOUND if path.name not in GENERATED]
PAGES = {str(path.relative_to(ROOT)): page_text(path) for path in PATHS}
EMPTY = "tests/empty.yaml"  # stands for a config that a page leaves open
NOT_IN_SOURCES = {  # quoted from PyTorch and torchvision, or filled in when the program runs
    "operator torchvision",
    "nms does not exist",
    "modified by an inplace operation",
    "path label",
    "marked ready only once",
    "grad strides do not match bucket view",
    "after epoch",
    "such file or directory",
    "cannot read the train list",
    "its stored config asks to import",
    "and it cannot be fetched",
    "CUDA out of memory",
    "out of memory",
    "Tried to allocate",
    "to allocate",
    "No such file or directory",
    "operator torchvision::nms does not exist",
    "its stored config asks to import my_models",
    "allow that with --allow-import",
}
PREPARE = "python datasets/prepare.py"
SCRIPT = re.compile(r"\b(?:tools|datasets)/\w+\.py\b")
FILE = re.compile(
    r"(?<![\w/.-])(?:docs|tools|tests|configs|datasets|slowfast_uniformer|cli|inference|analysis|engine|weights|runs|data|"
    r"distributed|models|ops|config)/"
    r"[\w./-]*\w\.(?:py|yaml|md|sbatch|sh)\b"
)
each_page = pytest.mark.parametrize("page", PAGES)
script = functools.cache(load_script)


def code(text: str) -> list[str]:
    """The indented and fenced blocks of a page, dedented, with lines that continue joined."""
    fenced = re.findall(r"^ *```\w*\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    text = re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)
    indented = re.findall(r"(?:^ {4,}\S.*\n(?:\n+(?= {4}))?)+", text, re.MULTILINE)
    return [re.sub(r"\\\n\s*", "", textwrap.dedent(block)) for block in fenced + indented]


def commands(text: str) -> list[str]:
    """Every command of a page, in a block or within a sentence, that starts one of our programs or make, pip,
    tensorboard; `prepare.py NAME` is short for one."""
    inline = [" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]
    lines = [line for block in code(text) for line in block.splitlines()] + inline
    parts = [re.sub(r"^(\w+=\S+ )+|^(\./)?\.venv/bin/", "", part) for x in lines for part in x.split(" && ")]
    parts = [re.sub(r"^prepare\.py(?= )", PREPARE, part) for part in parts]
    return [part for part in parts if re.match(r"(uniformer|python3?|make|pip|tensorboard|torchrun|srun) \S", part)]


def every_command() -> list:
    """All pages' commands, and those of the Makefile that the pages name."""
    makefile = (ROOT / "Makefile").read_text()
    (pytest_line,) = re.findall(r"^PYTEST = (.*)", makefile, re.MULTILINE)
    recipes = makefile.replace("$(PYTEST)", pytest_line)
    recipes = re.sub(r"^\t(?:\$\(BIN\)/)?", "    ", recipes, flags=re.MULTILINE)
    recipes = re.sub(r"\$\((\w+)\)", "python", recipes)
    found = {(page, x) for page, text in (PAGES | {"Makefile": recipes}).items() for x in commands(text)}
    return [pytest.param(x, id=f"{page}: {x[:70]}") for page, x in sorted(found)]


def filled(command: str) -> list[str]:
    """The words of a command with what it leaves open filled in: a config that is not named or is the
    reader's, what brackets say is optional, and what stands once for all of prepare.py's."""
    command = re.sub(r"\[(?=--|KEY)([^\]]*)\]", r"\1", command)
    command = re.sub(r" > \S+$", "", command)
    if command.startswith(PREPARE):
        command = command.replace(" NAME ", " k400 ") + " --annotations DIR --out OUT"
    words = shlex.split(command.replace("KEY VALUE", ""), comments=True)
    words = [EMPTY if re.fullmatch(r"[A-Z]+\.yaml|exp/.*\.yaml", word) else word for word in words]
    words = [EMPTY if pair == ("--cfg", "...") else pair[1] for pair in itertools.pairwise(["", *words])]
    return [word for word in words if word != "..."]


def check_script(path: str, arguments: list[str], monkeypatch) -> None:
    """A program of ours is there, and understands its arguments and what config they make."""
    assert (ROOT / path).is_file(), path
    monkeypatch.setattr(sys, "argv", [path, *arguments])
    module = script(path)
    if not hasattr(module, "parse_args"):
        assert not arguments, f"{path} takes no arguments"
        return
    check_config(module.parse_args())


def check_config(args) -> None:
    """The config of a command's arguments is valid."""
    overrides = getattr(args, "opts", None) or getattr(args, "overrides", [])
    load_config(getattr(args, "cfg", None), overrides, runs_here=False)


def check_uniformer(arguments: list[str], monkeypatch) -> None:
    """Our command understands its arguments; without any, a sentence only names it."""
    name, *rest = arguments or ["--help"]
    if name in ("COMMAND", "--help", "--version"):
        return
    command = main.load_command(name)
    if rest:
        check_config(command.parse_args(rest))


def check_python(arguments: list[str], monkeypatch) -> None:
    option, *rest = arguments
    if option == "-c":
        exec(compile(rest[0], "<page>", "exec"), {})
    elif option == "-m" and rest[0] == "slowfast_uniformer":
        check_uniformer(rest[1:], monkeypatch)
    elif option == "-m":
        assert importlib.util.find_spec(rest[0]), rest[0]
    else:
        check_script(option, rest, monkeypatch)


def check_make(arguments: list[str], monkeypatch) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(arguments) <= set(targets)


def check_pip(arguments: list[str], monkeypatch) -> None:
    known = re.findall(r'^ +"(\w+)": [\[A-Z]', (ROOT / "setup.py").read_text(), re.MULTILINE)
    asked = re.findall(r"(?:^\.|slowfast_uniformer)\[([\w,]+)\]", "\n".join(arguments), re.MULTILINE)
    assert {name for names in asked for name in names.split(",")} <= set(known)


def check_tensorboard(arguments: list[str], monkeypatch) -> None:
    from tensorboard import program
    from tensorboard.plugins.core.core_plugin import CorePluginLoader

    program.TensorBoard(plugins=[CorePluginLoader()]).configure(argv=["tensorboard", *arguments])


def check_launcher(arguments: list[str], monkeypatch) -> None:
    """torchrun and srun: our program behind them; srun's own options are SLURM's business."""
    own = [n for n, word in enumerate(arguments) if SCRIPT.fullmatch(word)]
    if "slowfast_uniformer" in arguments:
        check_uniformer(arguments[arguments.index("slowfast_uniformer") + 1 :], monkeypatch)
    elif own:
        check_script(arguments[own[0]], arguments[own[0] + 1 :] or ["--cfg", EMPTY], monkeypatch)


def check_torchrun(arguments: list[str], monkeypatch) -> None:
    from torch.distributed.run import get_args_parser

    own = any(map(SCRIPT.fullmatch, arguments)) or "slowfast_uniformer" in arguments
    get_args_parser().parse_args([*arguments, *([] if own else ["tools/run_net.py"])])
    check_launcher(arguments, monkeypatch)


CHECKS = {
    "uniformer": check_uniformer,
    "python": check_python,
    "python3": check_python,
    "make": check_make,
    "pip": check_pip,
    "tensorboard": check_tensorboard,
    "torchrun": check_torchrun,
    "srun": check_launcher,
}


@pytest.mark.parametrize("command", every_command())
def test_a_command_is_understood(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    program, *arguments = filled(command)
    CHECKS[program](arguments, monkeypatch)


def test_commands_are_found_and_faults_in_them_too(monkeypatch):
    text = "Say `make\ndemo`:\n\n    A=1 python tools/run_net.py --cfg tests/empty.yaml \\\n        A.B 1\n"
    fault, demo = commands(text)
    assert (demo, fault) == ("make demo", "python tools/run_net.py --cfg tests/empty.yaml A.B 1")
    with pytest.raises(Exception, match="unknown key A.B"):
        test_a_command_is_understood(fault, monkeypatch)
    with pytest.raises(AssertionError, match="tools/no.py"):
        test_a_command_is_understood("python tools/no.py", monkeypatch)
    for fault in ("uniformer slurm --nodse 1", "python -m slowfast_uniformer slurm --nodse 1"):
        with pytest.raises(SystemExit):
            test_a_command_is_understood(fault, monkeypatch)
    with pytest.raises(UserError, match="did you mean slurm"):
        test_a_command_is_understood("uniformer slrm --nodes 1", monkeypatch)


@each_page
def test_python_code_imports_what_there_is(page):
    for block in code(PAGES[page]):
        if re.match(r"(#.*\n)?(from|import) \w", block):
            imports = [node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.ImportFrom)]
            for node in [node for node in imports if node.module.startswith("slowfast_uniformer")]:
                module = importlib.import_module(node.module)
                assert not [name.name for name in node.names if not hasattr(module, name.name)]


@each_page
def test_overrides_in_sentences_are_accepted(page):
    """KEY VALUE pairs, also where the sentence leaves out a key's section or says n for a number."""
    known = [key for key, _ in flatten(get_cfg())]
    whole = {key.rpartition(".")[2]: key for key in known} | {key: key for key in known}
    for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", PAGES[page]):
        pairs = re.match(r"[A-Z0-9_.]+\s", span)
        words = ["1" if word == "n" else word for word in shlex.split(span)] if pairs else []
        if words and len(words) % 2 == 0 and set(words[::2]) <= set(whole):
            words[::2] = [whole[key] for key in words[::2]]
            recipe = str(ROOT / "configs/_base_/uniformer.yaml")
            load_config(recipe, ["MIXUP.ENABLE", False, *words], runs_here=False)


def test_the_model_of_the_page_trains(tmp_path, monkeypatch, tiny, run_net):
    (module,) = [block for block in code(PAGES["CONTRIBUTING.md"]) if block.startswith("# my_models.py")]
    (tmp_path / "my_models.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_models", raising=False)
    monkeypatch.setattr(MODEL_REGISTRY, "_obj_map", dict(MODEL_REGISTRY))
    status, out, errors = run_net([*tiny, "MODEL.IMPORT", "my_models", "MODEL.MODEL_NAME", "my_model"])
    assert status == 0 and out.startswith("top-1 "), errors


def call_of(command: str) -> list[str]:
    """The name of our command that a line calls, and its arguments; run_net.py is train."""
    program, *words = shlex.split(command)
    if program != "uniformer":
        words[0] = words[0].replace("tools/run_net.py", "train")
    return words


def test_the_walk_through_works(tmp_path, monkeypatch, demo, tiny, capfd):
    """The commands for one's own videos, in their order, with sizes for seconds added."""
    for number, video in enumerate(sorted((demo / "videos").rglob("*.mp4"))):
        folder = tmp_path / "my_videos" / ("backhand", "forehand")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(video, folder / f"clip{number}.mp4")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    own = {"OUTPUT_DIR", "DATA.PATH_TO_DATA_DIR", "DATA.PATH_PREFIX", "MODEL.NUM_CLASSES"}  # the commands'
    sizes = [str(x) for pair in zip(tiny[::2], tiny[1::2], strict=True) if pair[0] not in own for x in pair]
    steps = commands(PAGES["docs/getting_started.md"].partition("## 5.")[2])
    calls = [call_of(step) for step in steps]
    assert [name for name, *_ in calls] == ["lists", "check", "train"]
    for name, *arguments in calls:
        arguments += sizes if "--cfg" in arguments else []
        here = ["--workers", "0"] if name == "check" else []  # starting others takes longer
        status = exit_status(lambda words=[name, *here, *arguments]: main.run(words))
        errors = capfd.readouterr().err
        assert status == 0 and "error" not in errors, errors
    header, *rows = (tmp_path / "runs/mine/predictions.csv").read_text().splitlines()
    assert rows and all(row.split(",")[4] in ("backhand", "forehand") for row in rows)


def test_the_learning_rates_of_the_page_are_those_of_the_recipes():
    rows = [line for line in PAGES["docs/fine_tuning.md"].splitlines() if line.startswith("| [")]
    for row in rows:
        _, _, batch, rate, vit, epochs, warm_up, _ = [cell.strip() for cell in row.strip("|").split("|")]
        for path in re.findall(r"\(\.\./(configs/[\w/]+\.yaml)\)", row):
            cfg = load_config(str(ROOT / path), runs_here=False)
            solver, told = cfg.SOLVER, tuple(map(float, (batch, rate, epochs, warm_up)))
            assert told == (
                cfg.TRAIN.BATCH_SIZE * cfg.NUM_SHARDS,
                solver.BASE_LR,
                solver.MAX_EPOCH,
                solver.WARMUP_EPOCHS,
            ), path
            assert float(vit or 1) == (0 if cfg.UNIFORMERV2.FROZEN else solver.BACKBONE_LR_RATIO), path
    assert len(rows) == 8


@functools.cache
def texts_of_sources() -> str:
    """The sources, with messages that stand on several lines joined."""
    folders = (ROOT / "slowfast_uniformer", ROOT / "tools")
    sources = "\n".join(path.read_text() for folder in folders for path in folder.rglob("*.py"))
    sources = re.sub(r'"\s+f?"', "", sources)
    return re.sub(r"\{counted\([^{}]*'(\w+)'\)\}", r"\1s", sources)


def test_messages_in_the_questions_are_quoted_as_they_are_printed():
    """All that an entry of docs/faq.md quotes stands so in the sources, between what the program fills in: numbers,
    paths, and what `...` or brackets leave open."""
    entries = re.findall(r"^\*\*(`.+?)\*\*", PAGES["docs/faq.md"], re.MULTILINE | re.DOTALL)
    messages = [" ".join(message.split()) for entry in entries for message in re.findall(r"`([^`]+)`", entry)]
    parts = [part.strip() for message in messages for part in re.split(r"\.\.\.|[()]|\S*[\d/]\S*|[;:.,] ", message)]
    parts = [part for part in parts if " " in part]
    assert len(messages) > 35 and len(parts) > 70
    assert not [part for part in parts if part not in texts_of_sources() and part not in NOT_IN_SOURCES]


def test_words_in_a_row_of_the_questions_are_those_of_the_program():
    """Two or more plain words in a row of what docs/faq.md quotes anywhere stand so in the sources."""
    sources = texts_of_sources()
    quoted = [*re.findall(r"(?<!`)`([^`]+)`(?!`)", PAGES["docs/faq.md"]), *code(PAGES["docs/faq.md"])]
    word = r"[a-z]+(?=[ ,;:.)]|$)"
    found = (re.findall(rf"(?<![\w'/.-]){word}(?: {word})+", " ".join(text.split())) for text in quoted)
    words = {part for parts in found for part in parts}
    assert len(words) > 25
    assert not [part for part in words - NOT_IN_SOURCES if part not in sources]


@each_page
def test_keys_exist(page):
    known = {*dict(flatten(get_cfg())), *RENAMED, *RETIRED}
    words = set(re.findall(r"\b[A-Z][A-Z0-9_]+\.[A-Z][A-Z0-9_]+\b", PAGES[page]))
    assert not [key for key in words - known if key.partition(".")[0] not in RETIRED]


@each_page
def test_files_exist(page):
    places = (ROOT, ROOT / "slowfast_uniformer", (ROOT / page).parent)
    names = {name for name in FILE.findall(PAGES[page]) if not re.search(r"/[A-Z]+\.py$", name)}  # cli/COMMAND.py
    assert not [name for name in names if not any((place / name).exists() for place in places)]


def test_the_architecture_names_every_module():
    paths = (ROOT / "slowfast_uniformer").rglob("*.py")
    modules = {path.name for path in paths if not path.name.startswith("__")}
    assert not [name for name in sorted(modules) if not re.search(rf"\b{name}", PAGES["docs/architecture.md"])]


def slugs(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+)$", text, re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


@each_page
def test_links_lead_somewhere(page):
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        if "://" in link:
            continue
        if not target.exists() or (anchor and anchor not in slugs(target.read_text(encoding="utf-8"))):
            broken.append(link)
    assert not broken


def test_every_program_is_run_by_a_test():
    tests = "".join(path.read_text() for path in ROOT.glob("tests/**/*.py") if path.name != "test_docs.py")
    commands_run = {name for name in main.NAMES if f'"{name}"' in tests or f"cli.{name} import main" in tests}
    assert commands_run == set(main.NAMES)
    named = {name for text in PAGES.values() for name in SCRIPT.findall(text)}
    programs = [path for path in ROOT.glob("tools/*.py") if "__main__" in path.read_text()]
    there = {str(path.relative_to(ROOT)) for path in programs}
    called = (name for name in named | there if name not in tests)
    assert not [name for name in called if f'"{name.rpartition("/")[2]}"' not in tests]


REFERENCES = {"docs/config.md", "docs/commands.md", "docs/measurements.md"}  # written by tools


@pytest.mark.parametrize("page", sorted(page for page in PAGES if page.endswith(".md") and page not in REFERENCES))
def test_a_page_can_be_read_in_one_sitting(page):
    assert len(PAGES[page].splitlines()) <= 250


def test_the_index_names_every_page():
    links = re.findall(r"\]\(([\w./]+\.(?:md|ipynb))", PAGES["docs/README.md"])
    contents = re.findall(r"^(\w+)$", PAGES["docs/index.md"], re.MULTILINE)  # of the site
    pages = {path.name for path in PATHS if path.parent.name == "docs"} - {"README.md", "index.md"}
    assert pages <= {*links} and {*contents} == {Path(page).stem for page in pages | GENERATED}


def test_the_python_page_describes_every_public_name():
    described = re.findall(r"autofunction:: slowfast_uniformer\.(\w+)$", PAGES["docs/python.md"], re.MULTILINE)
    assert sorted(described) == sorted(slowfast_uniformer.__all__)
