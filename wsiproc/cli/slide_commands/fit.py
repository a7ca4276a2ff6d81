"""``wsiproc fit``: train a model on slides, without labels, or on cells that were corrected."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wsiproc.cli import completion
from wsiproc.cli.arguments import Mpp, listed, path
from wsiproc.cli.slide_commands.options import DeviceName, chosen_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

FIT_EXAMPLES = (
    "Examples:  wsiproc fit slides/*.svs -o our-model   ·   wsiproc fit @slides.txt -o our-model   ·   "
    "wsiproc fit slide.svs --quick -o quick-model   ·   wsiproc fit tiles/ --mpp 0.25 -o tile-model   ·   "
    "wsiproc fit slides/*.svs --from default -o adapted   ·   wsiproc fit --corrections results -o corrected-model"
)


def fit_command(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="Slides, folders with slides in them, folders of images of one slide each, or @LIST, a file with one "
            "path per line.",
            show_default=False,
            autocompletion=completion.slides,
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", parser=path, help="Model folder to write.")] = Path("model"),
    config: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            help="TOML file with settings; options given here win.",
            autocompletion=completion.files(".toml"),
        ),
    ] = None,
    mpp: Mpp = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--from", help="Model to start from: default, or a model folder.", autocompletion=completion.models
        ),
    ] = None,
    corrections: Annotated[
        list[Path] | None,
        typer.Option(
            parser=path,
            metavar="OUT",
            help="Learn from the corrected cells in this output folder instead of from slides; may be repeated.",
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer steps: twenty minutes for one slide on two cores.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="Same seed, same model, on one device.")] = None,
    device: DeviceName = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the result.")] = False,
) -> None:
    """Train a cell model on slides or tiles, without labels: writes a folder for `run --model`, with a model card.

    With --corrections, the default model, or the one named by --from, learns from cells that `import` took from QuPath
    or from `view --write`, in minutes. Interrupted? Run the same command to resume.
    """
    wanted = chosen_settings(None, device=device).device
    from wsiproc.models.device import choose_device, use_allowed_cores

    device = choose_device(wanted, "float32").name
    use_allowed_cores()
    if corrections:
        _refuse_beside_corrections(SLIDES=sources, config=config, mpp=mpp, quick=quick)
        _learn_from(tuple(corrections), out, base or "default", seed or 0, device, quiet)
    else:
        paths = _sources(sources or (), mpp, out)
        _train(config, paths, out, quiet, mpp=mpp, quick=quick, base=base, seed=seed, device=device)
    typer.echo(f"{out}: use it with  wsiproc run SLIDE --model {out}   (model card: {out / 'README.md'})")


def _learn_from(corrections: tuple[Path, ...], out: Path, base: str, seed: int, device: str, quiet: bool) -> None:
    """Train ``base`` on corrected cells; prints how many."""
    from wsiproc.cli.console import fit_progress
    from wsiproc.psm.corrections.tuning import TuneSettings, tune
    from wsiproc.results.run_log import net

    with net("fit", out.parent), fit_progress(quiet) as on_progress:
        tuned = tune(TuneSettings(corrections, out, base, seed, device), on_progress)
    typer.echo(f"corrected cells that it learned from: {tuned.cells:,} (slides: {tuned.slides:,})")


def _sources(given: Sequence[str], mpp: float | None, out: Path) -> tuple[Path, ...]:
    """The slides and folders of tiles that arguments stand for."""
    from wsiproc.psm.tiles import is_image_folder

    return listed(given, mpp, out, is_image_folder) if given else ()


def _train(config: Path | None, paths: tuple[Path, ...], out: Path, quiet: bool, **given: Any) -> None:
    """Train a model on slides and tiles."""
    from wsiproc.cli.console import fit_progress
    from wsiproc.psm.fit import fit
    from wsiproc.psm.recipe import fit_settings
    from wsiproc.results.run_log import net

    settings = fit_settings(config, paths, out, **given)
    with net("fit", out.parent), fit_progress(quiet) as on_progress:
        fit(settings, on_progress)


def _refuse_beside_corrections(**given: object) -> None:
    """Raise SettingsError if anything is given that has no meaning with corrections."""
    named = [name if name.isupper() else f"--{name}" for name, value in given.items() if value]
    if named:
        from wsiproc.errors import SettingsError

        raise SettingsError(
            f"{named[0]} cannot be combined with --corrections, which learns from the slides that were corrected"
        )
