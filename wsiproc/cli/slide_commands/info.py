"""``wsiproc info``: metadata of slides."""

from __future__ import annotations

from pathlib import Path

from wsiproc.cli.arguments import Answers, AsJson, Mpp, ReaderName, Slides, for_each_slide, listed

INFO_EXAMPLES = "Examples:  wsiproc info slide.svs   ·   wsiproc info slides/ --json"


def info_command(slides: Slides, mpp: Mpp = None, reader: ReaderName = None, as_json: AsJson = False) -> None:
    """Print metadata of slides: format, size, resolution, levels; and why `run` would refuse them."""
    from wsiproc.cli.console import print_slide
    from wsiproc.io.slides.open import describe_file

    answers = Answers("info", as_json)

    def show(slide: Path) -> None:
        description = describe_file(slide, mpp, reader or "auto")  # type: ignore[arg-type]
        if as_json:
            from wsiproc.cli.documents.slides import InfoSlide

            answers.give(InfoSlide.of(description))
        else:
            print_slide(description)

    for_each_slide(listed(slides, mpp), "reading it", show, answers)
