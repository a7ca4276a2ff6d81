"""Each stage of a run alone: its time on one dedicated core, and how that compares with the network.

    python benchmarks/stages.py slide.svs [more.svs] [--model default] [--processor]

One process does one task after the other on one thread, after a small synthetic slide that absorbs loading and
compilation. The seconds are those of the tasks themselves, as recorded in ``run.json``; planning and the report, which
are not tasks, are given below the table as wall time. Mpx are 10⁶ px of tissue at 0.25 µm. With ``--processor`` all
seconds are processor time of this process.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from peers import MPX_A_MM2
from whole_run import CHECK, all_else

import wsiproc
from wsiproc.evaluate.tables import markdown_table
from wsiproc.results.profile import NETWORK, lines
from wsiproc.results.record import RunRecord
from wsiproc.synthetic import write_synthetic_slide


def run_alone(slide: Path, model: str, out: Path) -> dict:
    """``run.json`` of a run in this process."""
    (outcome,) = wsiproc.run(slide, out, model=model, device="cpu", executor="loop", workers=1, overwrite=True)
    return json.loads((outcome.folder / "run.json").read_text())


def print_stages(slide: Path, run: dict) -> None:
    """A row a stage, the heaviest first."""
    mpx, rows = run["tissue_mm2"] * MPX_A_MM2, lines(RunRecord.model_validate(run).profile)
    network = next(row.seconds for row in rows if row.what == NETWORK)
    print(f"{slide.name}: {mpx:.0f} Mpx of tissue, {run['counts']['cells']:,} cells, network in {run['precision']}\n")
    table = [
        {
            "stage": row.what,
            "s": f"{row.seconds:.2f}",
            "share": f"{row.share:.0%}",
            "Mpx a s": f"{mpx / row.seconds:.0f}",
            "× network": f"{row.seconds / network:.3f}",
            "MB read": f"{row.read_bytes / 1e6:.0f}",
            "MB written": f"{row.written_bytes / 1e6:.0f}",
        }
        for row in rows
        if row.seconds > 0
    ]
    print(markdown_table(table))
    by_clock = ", ".join(f"{stage} {run['seconds'][stage]:.1f} s" for stage in ("plan", "prepare", "merge", "report"))
    print(f"all but the network and the {CHECK}: {all_else(run):.1f} Mpx a s; by the clock: {by_clock}\n")


def main(slides: list[Path], model: str) -> None:
    """The small slide, then the others."""
    with tempfile.TemporaryDirectory() as scratch:
        drawn = Path(scratch) / "drawn.tif"
        write_synthetic_slide(drawn, (512, 512), mpp=0.5, tissue_fraction=0.8)
        for slide in (drawn, *slides):
            run = run_alone(slide, model, Path(scratch) / "out")
            if slide is not drawn:
                print_stages(slide, run)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", type=Path, nargs="+")
    parser.add_argument("--model", default="default")
    parser.add_argument("--processor", action="store_true")
    arguments = parser.parse_args()
    if arguments.processor:
        time.perf_counter = time.process_time
    main(arguments.slides, arguments.model)
