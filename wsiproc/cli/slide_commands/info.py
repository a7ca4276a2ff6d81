"""``wsiproc info``: what is known about slides."""

from __future__ import annotations

from pathlib import Path

from wsiproc.cli.arguments import Answers, AsJson, Mpp, ReaderName, Slides, for_each_slide, listed

INFO_EXAMPLES = "Examples:  wsiproc info slide.svs   ·   wsiproc info slides/ --json"


def info_command(slides: Slides, mpp: Mpp = None, reader: ReaderName = None, as_json: AsJson = False) -> None:
    """Print what is known about slides: format, size, resolution, levels; and what keeps `run` from working on them."""
    from wsiproc.cli.console import print_slide
    from wsiproc.io.slides.open import describe_file

    answers = Answers("info", as_json)

    def show(place: Path) -> None:
        facts = describe_file(place, mpp, reader or "auto")  # type: ignore[arg-type]
        if as_json:
            from wsiproc.cli.documents.slides import InfoSlide

            answers.give(InfoSlide.of(facts))
        else:
            print_slide(facts)

    for_each_slide(listed(slides, mpp), "reading it", show, answers)
