"""Where YAML lives, and how a command line becomes a config, a job and an exit code.

`hydra_main` is Hydra's own entry point with two things added: conf/ is found in a checkout and in
an installed wheel alike; and a mistake of the user ends in one line and exit code 2 instead of a
traceback.
"""

import difflib
import functools
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException, HydraException, InstantiationException
from hydra.errors import MissingConfigException as MissingConfig
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from frametx.data.files import SUFFIXES
from frametx.printable import printable


class UnfinishedError(Exception):
    """A job did part of its work, for no reason in its config: one line, exit code 1."""


USER_ERRORS = (
    ValueError,
    OSError,
    FloatingPointError,
    ModuleNotFoundError,
    UnfinishedError,
)  # a user can act on them
PATH_KEYS = (
    *(
        "ckpt",
        "ckpts",
        "against",
        "config",
        "input",
        "output",
        "report",
        "name",
        "ckpt_path",
        "init_from",
        "screen",
    ),
    "discriminator_init_from",
    *("data.root", "data.mixtures", "data.speakers", "data.exclude", "data.validation.roots"),
    *("paths.corpora_dir", "paths.shards_dir"),
)
"""Whose values are paths, beside data.<stem> and data.<stem>.roots of every stem."""
DEFAULT_STEMS = ("vocals", "instrumental")
KNOWN_STEMS = (
    *("vocals", "instrumental", "accompaniment", "drums", "bass", "other", "piano", "guitar"),
    *("voice", "speech", "noise", "music"),
)
"""Names by which a folder is known to hold libraries of stems, whatever stems a run has."""


def num_outputs(stems: Sequence[str], complement: str | None, num_channels: int) -> int:
    """Maps that a network returns: for every stem but the complement one for each channel."""
    return (len(stems) - (complement is not None)) * num_channels


# What conf/model computes from the stems: ${num_outputs:${stems},${complement},...} and others.
OmegaConf.register_new_resolver("num_outputs", num_outputs, replace=True)
OmegaConf.register_new_resolver("count", len, replace=True)
OmegaConf.register_new_resolver("is_null", lambda value: value is None, replace=True)


def conf_dir() -> Path:
    """conf/ inside the package when installed from a wheel, else at the root of the checkout.

    Raises:
        FileNotFoundError: if neither is there.
    """
    here = Path(__file__).resolve().parent
    for candidate in (here / "conf", here.parents[1] / "conf"):
        if (candidate / "train.yaml").is_file():
            return candidate
    raise FileNotFoundError(f"no conf/ in {here} nor in {here.parents[1]}: reinstall frametx")


class PackagedConf(SearchPathPlugin):
    """Searched last, so that a user's --config-path may replace any shipped file."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the shipped conf/ to Hydra's search path."""
        search_path.append("frametx", f"file://{conf_dir()}")


def hydra_main(
    config_name: str,
    *,
    prepare: Callable[[Sequence[str]], list[str]] = list,
    before: Callable[[DictConfig], None] = lambda cfg: None,
) -> Callable[[Callable[[DictConfig], int | None]], Callable[[], None]]:
    """Decorate an entry's main(cfg) -> exit code (None is 0): compose conf/<config_name>.yaml, run.

    A job that fails over a value of the user's (ValueError, OSError) prints one line `error: ...`
    and exits with 2; in a sweep the other jobs still run and the sweep exits with 1. With
    HYDRA_FULL_ERROR=1 the traceback is shown.

    Args:
        config_name: of the entry's file in conf/.
        prepare: changes the command line before it is composed; may raise ValueError.
        before: checks the config of a single job before Hydra writes anything; likewise.
    """
    Plugins.instance().register(PackagedConf)

    def decorate(task: Callable[[DictConfig], int | None]) -> Callable[[], None]:
        failures: list[str] = []
        codes: list[int] = []

        @functools.wraps(task)
        def job(cfg: DictConfig) -> None:
            is_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
            try:
                codes.append(task(cfg) or 0)
            except (*USER_ERRORS, HydraException, OmegaConfBaseException) as error:
                if not is_users(error):
                    raise
                if os.environ.get("HYDRA_FULL_ERROR") == "1":
                    traceback.print_exc()
                if not is_sweep:
                    fail(one_line(error), code=1 if isinstance(error, UnfinishedError) else 2)
                failures.append(f"{' '.join(HydraConfig.get().overrides.task)}: {one_line(error)}")
                print(f"error: {failures[-1]}", file=sys.stderr, flush=True)

        @functools.wraps(task)
        def main() -> None:
            failures.clear()
            codes.clear()
            sys.argv[1:] = flags_first(sys.argv[1:])
            stems = stems_of(sys.argv[1:], config_name)
            try:
                arguments = folder_as_data(sys.argv[1:], stems)
                sys.argv[1:] = prepare([quote_path(argument, stems) for argument in arguments])
                check_command_line(config_name, sys.argv[1:], before)
            except ValueError as error:
                fail(one_line(error))
            hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=config_name)(
                job
            )()
            if failures:
                print(f"error: {len(failures)} job(s) of the sweep failed", file=sys.stderr)
                sys.exit(1)
            sys.exit(max(codes, default=0))

        return main

    return decorate


def plain(cfg: DictConfig, keys: Sequence[str]) -> dict[str, Any]:
    """Some values of a config as dicts, lists and values, everything in them filled in.

    Raises:
        MissingMandatoryValue: naming the key that must be given.
    """
    part = OmegaConf.masked_copy(cfg, list(keys))
    values = OmegaConf.to_container(part, resolve=True, throw_on_missing=True)
    return {str(key): value for key, value in cast(dict[str, Any], values).items()}


def fail(message: str, *, code: int = 2) -> NoReturn:
    """Print in one line what the user can change, and end with an exit code."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.exit(code)


def is_users(error: BaseException) -> bool:
    """Whether the root of an error is a value that the user can change, not a defect of ours."""
    root = root_cause(error)
    if isinstance(root, TypeError):  # of a constructor that a config calls with other keys
        return isinstance(error, InstantiationException) and has_wrong_keys(root)
    return isinstance(root, (*USER_ERRORS, OmegaConfBaseException, HydraException))


def has_wrong_keys(error: TypeError) -> bool:
    """Whether a class was called with a keyword that it does not have, or without one it needs."""
    return bool(re.search(r"unexpected keyword argument|required .*argument", str(error)))


def root_cause(error: BaseException) -> BaseException:
    """What was raised first, below the wrappers that Hydra puts around it."""
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    return error


def one_line(error: BaseException) -> str:
    """An error's message without line breaks; a missing value is named by its key."""
    root = root_cause(error)
    if isinstance(root, MissingMandatoryValue):
        return f"{root.full_key or root.key} must be given: add {root.full_key or root.key}=..."
    if isinstance(root, TypeError) and isinstance(error, InstantiationException):
        return f"{key_of(error)}{' '.join(str(root).split())}: take that key out, or choose another"
    if isinstance(root, OSError) and root.filename is not None:
        return printable(f"{root.filename}: {root.strerror}")
    return printable(" ".join(str(root).split()))


def key_of(error: InstantiationException) -> str:
    """The key of the config whose class could not be made, as `loss: `; empty if it is not told."""
    found = re.findall(r"full_key: (\S+)", str(error))
    return f"{found[-1]}: " if found else ""


def flags_first(arguments: Sequence[str]) -> list[str]:
    """A command line with its flags in front of its overrides, where alone Hydra takes them."""
    options = get_args_parser()._option_string_actions
    flags: list[str] = []
    texts: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        action = options.get(argument)
        if not argument.startswith("-"):
            texts.append(argument)
            continue
        flags.append(argument)
        takes_value = action is not None and action.nargs != 0
        if takes_value and rest and not rest[0].startswith("-") and "=" not in rest[0]:
            flags.append(rest.pop(0))
    return flags + texts


def overrides_in(arguments: Sequence[str]) -> list[str]:
    """The overrides of a command line, without its flags and their values."""
    ordered = flags_first(arguments)
    texts = [argument for argument in ordered if not argument.startswith("-")]
    return [text for text in texts if "=" in text or text.startswith("~")]


def stems_of(arguments: Sequence[str], config_name: str) -> tuple[str, ...]:
    """The stems that a command line asks for, by stems=[...] or by its experiment.

    What cannot be composed is left to `check_command_line`, which says why.
    """
    named = [one for one in arguments if one.partition("=")[0] in ("stems", "experiment")]
    if not named or not any(one.removeprefix("+").startswith("data") for one in arguments):
        return DEFAULT_STEMS
    try:
        with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            stems = hydra.compose(config_name, overrides=named).stems
        return DEFAULT_STEMS if isinstance(stems, str) else tuple(stems or DEFAULT_STEMS)
    except (HydraException, OmegaConfBaseException, TypeError):
        return DEFAULT_STEMS
    finally:
        GlobalHydra.instance().clear()


def quote_path(argument: str, stems: Sequence[str] = DEFAULT_STEMS) -> str:
    """A command line's `key=path` in the quotes that Hydra wants around brackets and commas.

    What Hydra can read is left alone, unless it is a file's name that Hydra would take for a list.
    """
    key, _, path = argument.partition("=")
    libraries = {f"data.{stem}{part}" for stem in stems for part in ("", ".roots")}
    if key.removeprefix("+") not in {*PATH_KEYS, *libraries}:
        return argument
    try:
        OverridesParser.create().parse_override(argument)
        is_read = True
    except HydraException:
        is_read = False
    if is_read and not Path(path).expanduser().exists():
        return argument
    return f"{key}={quoted(path)}"


def quoted(path: Path | str) -> str:
    """A path between the quotes that Hydra reads literally."""
    escaped = str(path).replace("'", r"\'")
    return f"'{escaped}'"


def folder_as_data(arguments: Sequence[str], stems: Sequence[str] = DEFAULT_STEMS) -> list[str]:
    """Replace `data=/a/folder` by the group file that reads such a folder, with its paths.

    A folder for each of the stems inside makes it their libraries, train/ with such folders a
    corpus, and development/ beside that what `make data` has built; any other folder holds aligned
    tracks. A name in conf/data stays what it is.

    Raises:
        ValueError: if the folder holds libraries, but not those of the stems.
    """
    replaced: list[str] = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key != "data" or not value:  # other values may be longer than any path can be
            replaced.append(argument)
            continue
        folder = Path(value).expanduser()
        is_name = (conf_dir() / "data" / f"{value}.yaml").is_file()
        if is_name or not folder.is_dir():
            replaced.append(argument)
        elif holds_libraries(folder, stems):
            replaced += ["data=stems", f"data.root={quoted(folder)}"]
        elif (folder / "train").is_dir() and holds_libraries(folder / "train", stems):
            group = "corpora" if (folder / "development").is_dir() else "divided"
            replaced += [f"data={group}", f"paths.corpora_dir={quoted(folder)}"]
        else:
            replaced += ["data=tracks", f"data.root={quoted(folder)}"]
    return replaced


def holds_libraries(folder: Path, stems: Sequence[str]) -> bool:
    """Whether a folder holds a folder for each of the stems.

    Raises:
        ValueError: if it holds libraries, but not those of the stems.
    """
    if all((folder / stem).is_dir() for stem in stems):
        return True
    names = {*stems, *KNOWN_STEMS}
    folders = sorted(path for path in folder.iterdir() if path.is_dir() and path.name in names)
    audio = [
        path.stem.lower()
        for inside in folders
        for path in inside.rglob("*")
        if path.suffix.lower() in SUFFIXES
    ]
    if not audio or any(name in names for name in audio):  # the latter as in a track's folder
        return False
    raise ValueError(
        f"data={folder} holds {', '.join(path.name for path in folders)}, and every one of "
        f"stems=[{','.join(stems)}] must have a folder there: name the folders in stems=[...] "
        "(and one of them in complement=..., in training), or add the one that is missing"
    )


def check_command_line(
    config_name: str, arguments: Sequence[str], before: Callable[[DictConfig], None]
) -> None:
    """Compose the config once before Hydra does, to report the user's mistakes in one line.

    Flags (--help, --cfg, --config-dir ...) are Hydra's business and skip the check. Of a sweep each
    value is composed with the first value of every other.

    Raises:
        ValueError: from `before`, which is given the config unless it is a sweep's.
    """
    flags = [argument for argument in arguments if argument.startswith("-")]
    if any(flag not in ("-m", "--multirun") for flag in flags):
        return
    texts = [argument for argument in arguments if not argument.startswith("-")]
    try:
        overrides = OverridesParser.create().parse_overrides(texts)
        for chosen in each_sweep_value_once(overrides):
            with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
                cfg = hydra.compose(config_name, overrides=chosen, return_hydra_config=True)
                if not flags:
                    before(cfg)
    except (HydraException, OmegaConfBaseException) as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            traceback.print_exc()
        fail(composition_message(error, config_name, texts))
    finally:
        GlobalHydra.instance().clear()


def each_sweep_value_once(overrides: Sequence[Override]) -> list[list[str]]:
    """Override lists without sweeps, in which every value of every sweep appears at least once."""
    values = [
        [f"{o.get_key_element()}={value}" for value in o.sweep_string_iterator()]
        if o.is_sweep_override()
        else [str(o.input_line)]
        for o in overrides
    ]
    longest = max((len(v) for v in values), default=1)
    return [[v[min(i, len(v) - 1)] for v in values] for i in range(longest)]


def composition_message(error: Exception, config_name: str, texts: Sequence[str]) -> str:
    """One line for a config that could not be composed: what was asked, what there is."""
    message = " ".join(str(error).split())
    if isinstance(error, MissingConfig) and error.missing_cfg_file is not None:
        missing = str(error.missing_cfg_file)
        group, _, name = missing.rpartition("/")
        options = sorted(error.options or [])
        near = difflib.get_close_matches(name, options, n=1)
        hint = f"did you mean {group}={near[0]}? " if near else ""
        return f"{group}={name} is unknown: {hint}there is {', '.join(options) or 'nothing'}"
    if isinstance(error, ConfigCompositionException) and "Could not override" in message:
        key = message.split("'")[1]
        chosen = group_choices(texts)
        near = difflib.get_close_matches(key, known_keys(config_name, chosen), n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        group = [text for text in chosen if text.startswith(f"{key.partition('.')[0]}=")]
        where = f" with {group[-1]}" if group else ""
        return f"{key} is no key{where}: {hint}--cfg job shows them all, +{key}=... adds one"
    return message


def group_choices(texts: Sequence[str]) -> list[str]:
    """The overrides that choose a file of a group, as data=tracks; of a sweep its first value."""
    groups = {path.name for path in conf_dir().iterdir() if path.is_dir()}
    chosen = [text for text in texts if text.lstrip("+").partition("=")[0] in groups]
    try:
        return each_sweep_value_once(OverridesParser.create().parse_overrides(chosen))[0]
    except HydraException:
        return []


def known_keys(config_name: str, choices: Sequence[str] = ()) -> list[str]:
    """Every dotted key and group of a config composed of the files that were chosen."""
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        try:
            cfg = hydra.compose(config_name, overrides=list(choices))
        except (HydraException, OmegaConfBaseException):  # another mistake, beside the one told
            cfg = hydra.compose(config_name)

    def walk(node: Any, prefix: str) -> list[str]:
        if not isinstance(node, DictConfig):
            return []
        keys = [f"{prefix}{key}" for key in node]
        below = [walk(node._get_node(key), f"{prefix}{key}.") for key in node]
        return keys + [key for part in below for key in part]

    return walk(cfg, "") + [path.name for path in conf_dir().iterdir() if path.is_dir()]
