"""The command line interface. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import gc
import io
import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from wsiproc._version import __version__
from wsiproc.cli.arguments import INTERRUPTED, answer_in_json, exit_code
from wsiproc.cli.result_commands.check import CHECK_EXAMPLES, check_command
from wsiproc.cli.result_commands.evaluate import EVALUATE_EXAMPLES, evaluate_command
from wsiproc.cli.result_commands.export import EXPORT_EXAMPLES, export_command
from wsiproc.cli.result_commands.immuno import RECLASSIFY_EXAMPLES, reclassify_command
from wsiproc.cli.result_commands.import_cells import IMPORT_EXAMPLES, import_command
from wsiproc.cli.result_commands.profile import PROFILE_EXAMPLES, profile_command
from wsiproc.cli.result_commands.qupath import QUPATH_EXAMPLES, qupath_command
from wsiproc.cli.result_commands.view import VIEW_EXAMPLES, view_command
from wsiproc.cli.slide_commands.benchmark import BENCHMARK_EXAMPLES, benchmark_command
from wsiproc.cli.slide_commands.doctor import DOCTOR_EXAMPLES, doctor_command
from wsiproc.cli.slide_commands.fit import FIT_EXAMPLES, fit_command
from wsiproc.cli.slide_commands.info import INFO_EXAMPLES, info_command
from wsiproc.cli.slide_commands.plan import PLAN_EXAMPLES, plan_command
from wsiproc.cli.slide_commands.run import RUN_EXAMPLES, run_command
from wsiproc.cli.slide_commands.schema import JSON_COMMANDS, SCHEMA_EXAMPLES, schema_command
from wsiproc.cli.slide_commands.synth import SYNTH_EXAMPLES, synth_command
from wsiproc.errors import SettingsError, WsiprocError

app = typer.Typer(
    name="wsiproc",
    help="Whole-slide images to cells: no labels, no downloads, no seams.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


class _Loads(TyperCommand):
    """A command that loads libraries, some of which end the process where ``ulimit -v`` leaves too little."""

    little = False

    def invoke(self, ctx: Any) -> Any:
        """Run the command, once its arguments are read. Raises PlanError where there is too little address space."""
        from wsiproc.executors import LITTLE, require_address_space

        if self.little:
            require_address_space(LITTLE)
        else:
            require_address_space()
        return super().invoke(ctx)


class _LoadsLittle(_Loads):
    """A command that loads few of them."""

    little = True


app.command("run", cls=_Loads, epilog=RUN_EXAMPLES)(run_command)
app.command("plan", cls=_Loads, epilog=PLAN_EXAMPLES)(plan_command)
app.command("fit", cls=_Loads, epilog=FIT_EXAMPLES)(fit_command)
app.command("benchmark", cls=_Loads, epilog=BENCHMARK_EXAMPLES)(benchmark_command)
app.command("info", cls=_LoadsLittle, epilog=INFO_EXAMPLES)(info_command)
app.command("check", cls=_Loads, epilog=CHECK_EXAMPLES)(check_command)
app.command("evaluate", cls=_Loads, epilog=EVALUATE_EXAMPLES)(evaluate_command)
app.command("synth", cls=_LoadsLittle, epilog=SYNTH_EXAMPLES)(synth_command)
app.command("export", cls=_Loads, epilog=EXPORT_EXAMPLES)(export_command)
app.command("profile", epilog=PROFILE_EXAMPLES)(profile_command)
app.command("qupath", cls=_LoadsLittle, epilog=QUPATH_EXAMPLES)(qupath_command)
app.command("import", cls=_LoadsLittle, epilog=IMPORT_EXAMPLES)(import_command)
app.command("reclassify", cls=_Loads, epilog=RECLASSIFY_EXAMPLES)(reclassify_command)
app.command("view", cls=_Loads, epilog=VIEW_EXAMPLES)(view_command)
app.command("doctor", epilog=DOCTOR_EXAMPLES)(doctor_command)
app.command("schema", epilog=SCHEMA_EXAMPLES)(schema_command)


def _commands() -> set[str | None]:
    return {command.name for command in app.registered_commands}


def _print_error(error: Exception) -> None:
    from wsiproc.cli.console import print_error

    print_error(error)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", "-V", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"wsiproc {__version__}")
        raise typer.Exit


def main() -> None:
    """Entry point: expected errors become one sentence and exit code 2; Ctrl-C prints how to resume.

    Unexpected errors become a sentence too, with exit code 1 and their traceback in a file.
    """
    for stream in (sys.stdout, sys.stderr):  # escape characters that a terminal or log cannot show
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if os.environ.get("COLUMNS") == "0":  # as some programs set it that have no screen; nothing would be printed
        del os.environ["COLUMNS"]
    command = next(iter(sys.argv[1:]), "")
    try:
        if os.path.exists(command) and command not in _commands():
            raise SettingsError(f"{command} is not a command; to find the cells of a slide: wsiproc run {command}")
        if "--json" in sys.argv and command in JSON_COMMANDS:
            sys.exit(answer_in_json(app, command))
        app()
    except WsiprocError as error:
        _print_error(error)
        sys.exit(exit_code(error))
    except Exception as error:
        from wsiproc.results.run_log import recorded

        _print_error(recorded(error, " ".join(["wsiproc", command]), None))
        sys.exit(1)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            typer.echo("Stopped. Run the same command to resume.", err=True)
        raise
    finally:
        gc.freeze()  # saves most of a second of garbage collection over all imported modules at exit


if __name__ == "__main__":
    main()
