"""The command line: each command is a few lines over `debride.workflow`."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.markup import escape

from debride import __version__
from debride.config import Settings
from debride.errors import DebrideError
from debride.files import UNFINISHED, UNFINISHED_POINTS
from debride.flags import signature
from debride.interrupts import orderly_interrupts
from debride.settings import (
    ApplySettings,
    CompareSettings,
    DemoSettings,
    DoctorSettings,
    EvaluateSettings,
    ExplainSettings,
    ExportSettings,
    InspectSettings,
    PruneSettings,
    ReportSettings,
    TrainSettings,
)

S = TypeVar("S", bound=Settings)

app = typer.Typer(
    name="debride",
    help="Cut a medical-imaging network down to the parts that carry its decisions, "
    "and show that it still decides for the same reasons.",
    epilog="Start with [bold]debride demo[/bold]; it needs no images and no network.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(f"debride {__version__}")
        raise typer.Exit


def command(
    settings: type[S],
    panel: str,
    *,
    epilog: str,
    interrupted: Callable[[S], str] = lambda _: "nothing was written",
) -> Callable[[Callable[[S], None]], Callable[[S], None]]:
    """Register a function of one settings object as a command with a flag per setting."""

    def register(function: Callable[[S], None]) -> Callable[[S], None]:
        def run(config: Path | None, debug: bool, **flags: Any) -> None:
            resolved = settings.resolve(flags, config)
            try:
                function(resolved)
            except KeyboardInterrupt:
                raise _InterruptedError(interrupted(resolved)) from None
            except OSError as error:
                if error.errno == errno.ENOSPC and error.filename is None:
                    error.filename = getattr(resolved, "out", None)
                raise

        run.__signature__ = signature(settings)  # type: ignore[attr-defined]
        run.__annotations__ = {
            name: parameter.annotation for name, parameter in signature(settings).parameters.items()
        }
        app.command(function.__name__, help=function.__doc__, epilog=epilog, rich_help_panel=panel)(
            run
        )
        return function

    return register


def _demo_kept(settings: DemoSettings) -> str:
    if not settings.out.is_dir():
        return "nothing was written"
    return f"what was done so far is in {settings.out}; debride demo begins anew"


def _epochs_kept(settings: TrainSettings) -> str:
    if not (settings.out / UNFINISHED).exists():
        return "no epoch was finished, nothing was written"
    return f"the finished epochs are kept in {settings.out}; run the same command again to go on"


def _tuning_kept(settings: ApplySettings) -> str:
    if not (settings.out / UNFINISHED).exists():
        return "nothing was written"
    return f"the finished epochs are kept in {settings.out}; run the same command again to go on"


def _cells_kept(settings: CompareSettings) -> str:
    if not settings.out.is_dir():
        return "nothing was written"
    return f"what was done is kept in {settings.out}; run the same command again to go on"


def _steps_kept(settings: PruneSettings) -> str:
    if not any((settings.out / name).exists() for name in (UNFINISHED, UNFINISHED_POINTS)):
        return "no step was finished, nothing was written"
    what = "steps and epochs are" if (settings.out / UNFINISHED).exists() else "steps are"
    return f"the finished {what} kept in {settings.out}; run the same command again to go on"


@command(DemoSettings, "Start here", epilog="Example: debride demo", interrupted=_demo_kept)
def demo(settings: DemoSettings) -> None:
    """Train a small network on drawn radiographs, halve it, and show the report (minutes)."""
    from debride.demo import run

    run(settings)


@command(
    DoctorSettings,
    "Start here",
    epilog="Example: debride doctor --model torchvision:resnet18 --data scans/",
)
def doctor(settings: DoctorSettings) -> None:
    """Say, before long work, what can be explained and cut, and what it will take."""
    from debride.doctor import run

    run(settings)


@command(
    InspectSettings,
    "Start here",
    epilog="Example: debride inspect --model timm:vit_tiny_patch16_224 --out groups.json",
)
def inspect(settings: InspectSettings) -> None:
    """List what of a network can be cut, what that costs, and what is left alone and why."""
    from debride.inspecting import run

    run(settings)


@command(
    TrainSettings,
    "Work",
    epilog="Example: debride train --data scans/ --model torchvision:resnet18 "
    "--image-size 64 --out runs/base",
    interrupted=_epochs_kept,
)
def train(settings: TrainSettings) -> None:
    """Train a baseline, for those who have no network; run it again after Ctrl-C to go on."""
    from debride.workflow import train as work

    work(settings)


@command(
    PruneSettings,
    "Work",
    epilog="Example: debride prune --model runs/base --data scans/ --macs 0.5 --out runs/half",
    interrupted=_steps_kept,
)
def prune(settings: PruneSettings) -> None:
    """Cut a trained network down and show what changed; run it again after Ctrl-C to go on."""
    from debride.workflow import prune as work

    work(settings)


@command(
    ApplySettings,
    "Work",
    epilog="Example: debride apply --plan runs/half/plan.json --model runs/base "
    "--data scans/ --out runs/again",
    interrupted=_tuning_kept,
)
def apply(settings: ApplySettings) -> None:
    """Apply a plan (which may have been edited by hand) to a checkpoint."""
    from debride.workflow import apply as work

    work(settings)


@command(
    CompareSettings,
    "Work",
    epilog="Example: debride compare --grid grid.yaml --out runs/criteria --workers 2",
    interrupted=_cells_kept,
)
def compare(settings: CompareSettings) -> None:
    """Compare criteria on networks, images and seeds, cell by cell; run it again to go on."""
    from debride.comparing import compare as work

    work(settings)


@command(
    ExportSettings,
    "Work",
    epilog="Example: debride export --model runs/half --data scans/ --int8 --out half.onnx",
)
def export(settings: ExportSettings) -> None:
    """Write a network as ONNX, compared with PyTorch on real images; also in int8."""
    from debride.exporting import export as work

    work(settings)


@command(
    EvaluateSettings,
    "Look",
    epilog="Example: debride evaluate --model runs/half --original runs/base --data scans/",
)
def evaluate(settings: EvaluateSettings) -> None:
    """Measure a network, alone or beside the one it was cut from."""
    from debride.evaluating import evaluate as work

    if not work(settings):
        raise typer.Exit(3)


@command(
    ExplainSettings,
    "Look",
    epilog="Example: debride explain --model runs/half --images scans/ --method lrp,ig "
    "--out heatmaps",
)
def explain(settings: ExplainSettings) -> None:
    """Draw heatmaps over images, by one or several methods side by side."""
    from debride.explaining import explain as work

    if not work(settings):
        raise typer.Exit(1)


plans = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")
app.add_typer(
    plans,
    name="plan",
    help="Look at a plan, compare two, or print the form that plans have.",
    rich_help_panel="Look",
)
_PLAN = "a plan.json, or the folder of a run."
_Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@plans.command("show", epilog="Example: debride plan show runs/half --picture half.svg")
def _plan_show(
    plan: Annotated[Path, typer.Argument(help=f"The plan: {_PLAN}", metavar="PLAN")],
    picture: Annotated[
        Path | None,
        typer.Option(
            help="Draw it too: a file that ends in .png, .svg or .pdf.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    debug: _Debug = False,
) -> None:
    """Print what a plan keeps of every layer, as a table and as bars."""
    from debride.reviewing import show

    show(plan, picture)


@plans.command("diff", epilog="Example: debride plan diff runs/half runs/half-magnitude")
def _plan_diff(
    a: Annotated[Path, typer.Argument(help=f"One plan: {_PLAN}", metavar="A")],
    b: Annotated[Path, typer.Argument(help=f"The other: {_PLAN}", metavar="B")],
    debug: _Debug = False,
) -> None:
    """Print what each of two plans keeps that the other does not."""
    from debride.reviewing import diff

    diff(a, b)


@plans.command("schema", epilog="Example: debride plan schema --out plan.schema.json")
def _plan_schema(
    out: Annotated[
        Path | None,
        typer.Option(help="A file instead of the screen.", metavar="FILE", show_default=False),
    ] = None,
    debug: _Debug = False,
) -> None:
    """Print the JSON Schema of a plan file."""
    from debride.reviewing import schema

    schema(out)


@command(ReportSettings, "Look", epilog="Example: debride report runs/half runs/tenth")
def report(settings: ReportSettings) -> None:
    """Write the report and model card of a finished run anew, or compare several runs."""
    from debride.reporting import report as work

    work(settings)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0: done. 1: something unforeseen. 2: something the user can mend. 3: the verdict of
    ``evaluate --fail-on``. 130: Ctrl-C.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with orderly_interrupts(__file__):
            return app(given, prog_name="debride", standalone_mode=False) or 0
    except _InterruptedError as error:
        return _fail(str(error), 130, "[yellow]stopped:[/yellow]")
    except (KeyboardInterrupt, typer.Abort):
        return _fail("nothing was written", 130, "[yellow]stopped:[/yellow]")
    except BrokenPipeError:  # the reader, `head` perhaps, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if hasattr(error, "format_message"):  # a usage error of Typer's
            # no message: a bare command, whose help was shown
            return _fail(_usage(error), 2) if error.format_message() else 2
        if "--debug" in given:
            Console(stderr=True).print_exception(suppress=[typer])
        if isinstance(error, DebrideError):
            return _fail(str(error), 2)
        return _fail(f"{_unforeseen(error)}; run again with --debug for the traceback", 1)


class _InterruptedError(Exception):
    """Ctrl-C, with what to tell the user."""


def _fail(message: str, code: int, label: str = "[bold red]error:[/bold red]") -> int:
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(f"{label} {escape(' '.join(message.split()))}")
    return code


def _unforeseen(error: Exception) -> str:
    said = str(error).lower()
    if isinstance(error, MemoryError) or "out of memory" in said or "allocate memory" in said:
        return "not enough memory: give a smaller --batch-size or --image-size"
    if isinstance(error, OSError) and error.strerror:
        name = f" '{error.filename}'" if error.filename else ""
        return f"{error.strerror.lower()}{name}"
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _usage(error: Any) -> str:
    """Say a usage error with the command whose --help has the answer."""
    message = error.format_message().rstrip(". ")
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "debride"
    return f"{message}; '{path} --help' lists what there is"


if __name__ == "__main__":
    sys.exit(main())
