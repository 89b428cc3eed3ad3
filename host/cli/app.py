"""The Typer application: commands, and how errors reach the user."""

from __future__ import annotations

import sys
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from typer.exceptions import TyperException

from insitu.host.cli import data, hdl, online, program, synth, train, verify

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
    context: typer.Context,
    traceback: Annotated[
        bool, typer.Option("--traceback", envvar="INSITU_TRACEBACK", help="Show where an error came from.")
    ] = False,
) -> None:
    context.obj = {"traceback": traceback}


app.command("demo")(online.demo)
app.command("online")(online.online)
app.command("train")(train.train)
app.command("simulate")(program.simulate)
app.command("verify")(verify.verify)
app.command("hdl")(hdl.hdl)
app.command("synth")(synth.synth)
app.command("disasm")(program.disasm)
app.add_typer(data.app, name="data")

#: Exit code of every error a user can mend.
USER_ERROR = 2


def user_errors() -> tuple[type[BaseException], ...]:
    """What is shown as one line. Imported late: a help text must not wait for SQLAlchemy."""
    from insitu.arch.errors import ArchError
    from insitu.fpga.yosys import ToolError
    from insitu.host.batches import BatchError
    from insitu.host.detector import DetectorError
    from insitu.host.errors import HostError
    from insitu.host.store import FeedbackError, StoreError
    from insitu.models.errors import ModelsError

    return (HostError, ArchError, ModelsError, StoreError, FeedbackError, DetectorError, BatchError, ToolError, OSError)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exits. A user's error is one line on standard error and exit code 2."""
    console = Console(stderr=True)
    given = sys.argv[1:] if arguments is None else arguments
    try:
        code = app(args=given, prog_name="insitu", standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        console.print("insitu: interrupted; what was acknowledged is kept", style="yellow")
        sys.exit(130)
    except TyperException as error:  # an option or a command there is not
        _complain(console, error.format_message())
    except Exception as error:
        if "--traceback" in given or not isinstance(error, user_errors()):
            raise
        _complain(console, str(error) or type(error).__name__)
    sys.exit(code if isinstance(code, int) else 0)


def _complain(console: Console, message: str) -> NoReturn:
    line = " ".join(message.split())
    console.print(f"insitu: {line}", style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(USER_ERROR)
