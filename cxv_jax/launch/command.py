"""What every command shares: flag parsing, one-line errors, clean interruption, the XLA cache."""

import io
import logging
import os
import re
import runpy
import signal
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from absl import flags

from cxv_jax.errors import InputError, nearest, os_fault
from cxv_jax.launch import allocator, presets
from cxv_jax.launch.fields import did_you_mean, field_names, meant
from cxv_jax.text import printable


def run(
    main: Callable[[list[str]], int | None],
    *,
    presets_in: Path | None = None,
    about: str | None = None,
    complete: Callable[[list[str]], list[str]] = list,
) -> None:
    """Parse the flags, call ``main(positional arguments)``, exit with its code.

    A person's mistake (a flag, a config field, an ``InputError`` or ``OSError``) ends with one line
    on stderr and exit code 2; SIGINT and SIGTERM end with one line and 128 + signal (130, 143).

    Args:
      main: the command.
      presets_in: folder of the config files that ``--config`` may name without their path.
      about: what ``--help`` says above the flags; default: the text of the module of ``main``.
      complete: adds to the command line what follows from it.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    if any(arg in ("--help", "-h", "--helpfull") for arg in sys.argv[1:]):
        sys.exit(_help(main, about, presets_in))
    allocator.ensure()
    _print_any_name()
    sys.unraisablehook = _show
    _use_compilation_cache()  # Before the flags: a config file imports JAX, which then reads it.
    arguments = parse(complete(sys.argv), presets_in)
    allocator.compute_inline()
    try:
        code = main(arguments)
    except InputError as error:
        fail(str(error))
    except OSError as error:  # A folder that is read-only, full, gone: a person can mend it.
        fail(str(os_fault(error)))
    sys.exit(code or 0)


def parse(argv: list[str], presets_in: Path | None = None) -> list[str]:
    """Parse ``argv`` into ``flags.FLAGS``; return the positional arguments or exit with code 2."""
    try:
        if presets_in and "config" in flags.FLAGS:
            argv = presets.resolve(argv, presets_in)
        with warnings.catch_warnings():
            # ml_collections loads config files through a deprecated importlib call.
            warnings.filterwarnings("ignore", message=".*load_module", category=DeprecationWarning)
            arguments = flags.FLAGS(argv)[1:]
            if "config" in flags.FLAGS and flags.FLAGS["config"].value is not None:
                flags.FLAGS["config"].value.to_dict()  # A file that failed to load says so here.
        return arguments
    except (AttributeError, KeyError) as error:
        fail(_unknown_field(argv) or _one_line(error))
    except flags.UnrecognizedFlagError as error:
        fail(_unknown_flag(error.flagname, argv))
    except Exception as error:  # Config files are Python: anything can go wrong in them.
        fail(_one_line(error))


def say(text: str, *, error: bool = False, end: str = "\n") -> None:
    """Print text with the names of files and classes in it, which may be anything."""
    (sys.stderr if error else sys.stdout).write(printable(text, keep="\n") + end)


def fail(message: str) -> NoReturn:
    """Print one line on stderr and exit with code 2."""
    say(f"error: {printable(as_flags(message, list(flags.FLAGS)))}", error=True)
    sys.exit(2)


class _Printable(logging.Formatter):
    """Log lines as :func:`say` prints them."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), keep="\n")


def _print_any_name() -> None:
    """What a terminal's encoding lacks is escaped, there and in what libraries log."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_Printable())
    # Ours has its own: a library that sets up logging would put its prefix before our lines.
    handler, logger = logging.StreamHandler(), logging.getLogger("cxv_jax")
    handler.setFormatter(_Printable())
    handler.setLevel(logging.WARNING)
    logger.addHandler(handler)
    logger.propagate = False


def _show(unraisable: Any) -> None:
    """As Python does, but not what TensorStore says of each array that a full disk has refused."""
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def as_flags(message: str, names: Iterable[str]) -> str:
    """A message of the library with its arguments as this command's flags.

    Example:
      >>> as_flags("workdir=x: pass fork=True, or lower config.fsdp", ["fork", "workdir"])
      '--workdir=x: pass --fork, or lower config.fsdp'
    """
    names = "|".join(map(re.escape, names))
    found = re.compile(rf"(?<![\w.-])({names})=(True\b)?")
    return found.sub(lambda m: f"--{m[1]}" if m[2] else f"--{m[1]}=", message)


def _stop(number: int, frame: FrameType | None) -> None:
    sys.stderr.write("\ninterrupted\n")
    sys.stderr.flush()
    os._exit(128 + number)  # Not an exception: an import in progress could swallow it.


def _one_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    if "Traceback (most recent call last)" in text:  # A config file failed; its last line says why.
        text = text.splitlines()[-1].removeprefix("cxv_jax.errors.InputError: ")
    elif not isinstance(error, flags.Error | InputError):
        text = f"{type(error).__name__} in the config: {text}"
    text = " ".join(text.split())
    return text.removeprefix(
        "Configuration is not available because of an earlier failure to load: "
    )


def _unknown_field(argv: list[str]) -> str:
    """Which ``--config.a.b`` names no field, and the one that was meant."""
    known = _fields(argv)
    for arg in argv[1:] if known else []:
        name = arg.lstrip("-").split("=")[0]
        if name.startswith("config.") and name.removeprefix("config.") not in known:
            name = name.removeprefix("config.")
            return f"unknown config field {name!r}{did_you_mean(name, known)}"
    return ""


def _unknown_flag(name: str, argv: list[str]) -> str:
    """Which flag is meant, or which field of the config."""
    if field := meant(name, _fields(argv)):
        return f"unknown flag --{name}; did you mean --config.{field}?"
    modules = flags.FLAGS.flags_by_module_dict()
    own = [flag.name for module, found in modules.items() if "absl" not in module for flag in found]
    return f"unknown flag --{name}{nearest(name, own)}"


def _fields(argv: list[str]) -> list[str]:
    """Every field of the config that ``argv`` names."""
    return list(field_names(_config(argv)))


def _config(argv: list[str]) -> dict[str, Any]:
    """The config that ``argv`` names, as it is before any override; none: empty."""
    typed = [arg.partition("=")[2] for arg in argv if re.match("--?config=", arg)]
    if not typed:
        return {}
    path, _, variant = typed[-1].partition(":")
    config: dict[str, Any] = runpy.run_path(path)["get_config"](
        *([variant] if variant else [])
    ).to_dict()
    return config


def _help(main: Callable[..., Any], about: str | None, presets_in: Path | None) -> int:
    about = about or sys.modules[main.__module__].__doc__ or ""
    lines = [about.strip(), "", "Flags:"]
    for flag in flags.FLAGS.get_key_flags_for_module(main.__module__):
        default = "" if flag.default in (None, "") else f" (default: {flag.default})"
        lines.append(f"  --{flag.name}: {flag.help}{default}")
    if presets_in:
        lines += _config_help(sys.argv, presets_in)
    say("\n".join(lines))
    return 0


def _config_help(argv: list[str], presets_in: Path) -> list[str]:
    """The fields of the config that ``argv`` names, with their values and what they mean."""
    try:
        config = _config(presets.resolve(argv, presets_in))
    except Exception as error:  # As in parse.
        fail(_one_line(error))
    if not config:
        hint = "a preset or file, also lists its fields with their meaning and defaults"
        return ["", f"--help with --config=NAME, {hint}."] if "config" in flags.FLAGS else []
    if "model" not in config:  # A comparison's.
        return ["", "Fields:", *(f"  --config.{name}" for name in field_names(config))]
    from cxv_jax.config_fields import described  # Late: only this needs JAX.

    rows = [(f"--config.{name}={value}", text) for name, value, text in described(config)]
    return ["", "Fields of this config:", *(f"  {field:<44} {text}" for field, text in rows)]


def _use_compilation_cache() -> None:
    """Compiled programs outlive the process, unless the user chose a place (or none) himself."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "cxv_jax" / "xla"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
