"""README, CONTRIBUTING and docs/: commands compose, choices are those of conf/, links lead on.

Nothing is run: a command line is composed as its entry would, after the shell has split it.
"""

import ast
import importlib.util
import re
import shlex
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

import frametx
from frametx.config import (
    conf_dir,
    each_sweep_value_once,
    folder_as_data,
    overrides_in,
    quote_path,
    stems_of,
)

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
ENTRIES = {path.stem for path in conf_dir().glob("*.yaml")}
COMMAND = re.compile(r"(?:[A-Z_]+=\S+ )?python -m frametx\.[a-z]")
STAND_INS = {  # for what the recipes of CONTRIBUTING.md invent
    "my_network_tiny": "v7_tiny",
    "my_preset": "none",
    "my_loss": "si_sdr",
    "my_option=...": "wiener=1",
}
# What a run is made of without being chosen: one file each, or read by the files of another group.
NOT_CHOSEN = {
    *("adversarial", "callbacks", "local", "paths", "pretraining_module", "separation", "trainer")
}
STEMS = ("vocals", "instrumental", "drums", "bass", "other")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Language and contents of the fenced blocks; of indented ones the language is empty."""
    for language, body in re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        yield language, body
    for body in re.findall(r"(?:(?:^    .*)?\n)+", FENCES.sub("", text), re.MULTILINE):
        if body.strip():
            yield "", re.sub(r"^    ", "", body, flags=re.MULTILINE)


def commands(text: str) -> list[str]:
    """Every call of a command of ours, in blocks and in running text; loops with first values."""
    lines = [line for _, body in blocks(text) for line in body.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`(python -m frametx[^`]+)`", text)
    values: dict[str, str] = {}
    found: list[str] = []
    for line in lines:
        if loop := re.match(r"\s*for (\w+) in (\w+)", line):
            values[loop[1]] = loop[2]
        for name, value in values.items():
            line = line.replace(f"${name}", value)
        if COMMAND.match(line.strip()):
            found.append(line.strip())
    return found


def tables(text: str) -> list[list[list[str]]]:
    """Rows of cells, the header first."""
    found = re.findall(r"(?:^\|.*\|\n)+", text + "\n", re.MULTILINE)
    rows = [[line.strip("|").split("|") for line in table.splitlines()] for table in found]
    return [[[cell.strip() for cell in row] for row in (table[0], *table[2:])] for table in rows]


FENCES = re.compile(r"^```.*?^```\n", re.DOTALL | re.MULTILINE)


def spans(text: str) -> list[str]:
    """Code in running text."""
    return re.findall(r"`([^`\n]+)`", FENCES.sub("", text))


COMMANDS = dict.fromkeys(
    tuple(shlex.split(command, comments=True))
    for page in PAGES
    for command in commands(page.read_text())
)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders that the documents call /my/..."""
    root = tmp_path_factory.mktemp("my")
    for stem in STEMS:
        (root / "library" / stem).mkdir(parents=True)
        (root / "corpus" / "train" / stem).mkdir(parents=True)
    (root / "songs" / "one").mkdir(parents=True)
    return root


def composed(entry: str, arguments: Sequence[str], places: Path) -> list[DictConfig]:
    """The configs that an entry would run; one, or one for each value of a sweep."""
    for typed, meant in ({"/my/": f"{places}/"} | STAND_INS).items():
        arguments = [argument.replace(typed, meant) for argument in arguments]
    stems = stems_of(arguments, entry)
    texts = [quote_path(text, stems) for text in folder_as_data(overrides_in(arguments), stems)]
    runs = [texts]
    if {"-m", "--multirun"} & set(arguments):
        runs = each_sweep_value_once(OverridesParser.create().parse_overrides(texts))
    own = []
    if "--config-dir" in arguments:
        folder = ROOT / arguments[arguments.index("--config-dir") + 1]
        own = [f"hydra.searchpath=[file://{folder}]"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return [compose(entry, overrides=[*own, *run]) for run in runs]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_line_composes(command: Sequence[str], places: Path) -> None:
    module, *arguments = command[command.index("-m") + 1 :]
    entry = module.removeprefix("frametx.")
    if entry in ENTRIES:
        assert composed(entry, arguments, places)
    else:
        assert importlib.util.find_spec(module) is not None


def test_a_command_line_with_a_mistake_does_not_compose(places: Path) -> None:
    for mistake in ("optimizer.lrr=1", "model=v77", "data.vocal=/my/vocals"):
        with pytest.raises(HydraException):
            composed("train", ["data=folders", mistake], places)


def test_commands_are_found_in_all_forms() -> None:
    text = (
        "```bash\nfor n in a b; do\n  X=1 python -m frametx.train name=$n \\\n    seed=1  # yes\n"
        "done\n```\n\n    python -m frametx.app\n\nor `python -m frametx.check data=x`\n"
    )
    assert [shlex.split(one, comments=True)[-2:] for one in commands(text)] == [
        ["name=a", "seed=1"],
        ["-m", "frametx.app"],
        ["frametx.check", "data=x"],
    ]


# Pages with tables of options, the command that takes them, and what they need beside.
OPTIONS = {
    "separate.md": ("separate", ()),
    "export.md": ("export", ()),
    "scale.md": ("train", ("data=folders",)),
    "data.md": ("train", ("data=folders",)),
}


@pytest.mark.parametrize("page", OPTIONS)
def test_every_option_in_a_table_composes(page: str, places: Path) -> None:
    entry, base = OPTIONS[page]
    found = [
        shlex.split(span)
        for header, *rows in tables((DOCS / page).read_text())
        for row in rows
        for name, cell in zip(header, row, strict=True)
        for span in spans(cell)
        if name in ("option", "how") and "=" in span and not span.startswith("python")
    ]
    alone = [words for words in found if any(word.startswith("data=") for word in words)]
    together = [word for words in found if words not in alone for word in words]
    assert len(found) > 3
    for words in ([*base, *together], *alone):
        assert composed(entry, words, places)


def chosen(text: str) -> set[str]:
    """Names in a cell of choices, without options."""
    return {span for span in spans(text) if "=" not in span}


def files_of(group: str) -> set[str]:
    return {path.stem for path in (conf_dir() / group).glob("*.yaml")}


def test_the_table_of_choices_is_what_conf_has() -> None:
    (table,) = (t for t in tables((DOCS / "train.md").read_text()) if t[0][0] == "group")
    rows = {spans(group)[0]: chosen(choices) for group, choices in table[1:]}
    del rows["model"]  # docs/networks.md has them
    assert rows == {group: files_of(group) for group in rows}
    groups = {path.name for path in conf_dir().iterdir() if path.is_dir()}
    assert groups - NOT_CHOSEN - {"model"} == rows.keys()


@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "networks.md"], ids=name_of)
def test_the_tables_of_networks_are_what_conf_has(page: Path) -> None:
    models = files_of("model")
    listed: set[str] = set()
    for header, *rows in tables(page.read_text()):
        if "`model=`" not in header:
            continue
        listed |= {name for row in rows for name in chosen(row[header.index("`model=`")])}
        for row in rows if "`_small`" in header else ():
            (name,) = chosen(row[0])
            assert (f"{name}_small" in models) == bool(row[header.index("`_small`")])
    assert listed <= models
    if page.name == "networks.md":
        rest = {re.sub(r"_(small|tiny)$", "", name) for name in models - listed}
        assert rest <= listed | {"spleeter"}


def test_the_tables_of_augmentations_are_what_conf_has() -> None:
    (table,) = (t for t in tables((DOCS / "data.md").read_text()) if t[0][0] == "`augment=`")
    assert set().union(*(chosen(row[0]) for row in table[1:])) == files_of("augment")


def test_every_option_of_separation_is_described() -> None:
    text = " ".join(spans((DOCS / "separate.md").read_text()))
    for path in (conf_dir() / "separate.yaml", conf_dir() / "separation" / "default.yaml"):
        config = OmegaConf.load(path)
        assert isinstance(config, DictConfig)
        keys = [str(key) for key in config if key not in ("defaults", "hydra")]
        assert [key for key in keys if not re.search(rf"\b{key}\b[=.]", text)] == []


def test_the_readme_lists_every_command_and_answers_in_order() -> None:
    text = (ROOT / "README.md").read_text()
    (table,) = (t for t in tables(text) if t[0][0] == "command")
    assert {row[0].strip("`").removeprefix("python -m frametx.") for row in table[1:]} == ENTRIES
    lines = text.splitlines()
    assert 120 <= len(lines) <= 150
    headings = [line.split()[1] for line in lines[:40] if line.startswith("#")]
    assert headings == ["frametx", "Install", "Separate", "Train"]


def test_targets_of_make_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        text = page.read_text()
        code = "\n".join([*(body for _, body in blocks(text)), *spans(text)])
        assert set(re.findall(r"^make ([a-z-]+)", code, re.MULTILINE)) <= targets, page


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_is_python_and_uses_public_names(page: Path) -> None:
    for language, body in blocks(page.read_text()):
        if language == "python":
            for node in ast.walk(ast.parse(body)):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                    assert node.value.id != "frametx" or node.attr in frametx.__all__


def anchors(page: Path) -> set[str]:
    text = FENCES.sub("", page.read_text())
    headings = re.findall(r"^#+ (.*)", text, re.MULTILINE)
    words = (re.sub(r"[^\w\s-]", "", heading.lower()).strip() for heading in headings)
    return {re.sub(r"\s+", "-", heading) for heading in words} | set(
        re.findall(r'<a id="([^"]+)"', text)
    )


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    text = re.sub(r"`[^`\n]+`", "", FENCES.sub("", page.read_text()))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


def test_every_page_is_in_the_navigation() -> None:
    def pages(entry: object) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        elif isinstance(entry, dict | list):
            for one in entry.values() if isinstance(entry, dict) else entry:
                yield from pages(one)

    site = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]
    listed = sorted(pages(site["nav"]))
    assert listed == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))
