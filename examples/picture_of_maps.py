"""An image of how cells are found: a field of a slide, the models' maps of it, and the cells.

python examples/picture_of_maps.py picture.png CENTRE_Y CENTRE_X SIDE OUT/slide [OUT2/slide ...]     (slide px)

One map is taken from each folder: the self-activation if its model has one, otherwise the probability of a nucleus.
The cells are those of the last folder.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import zarr
from picture_of_cells import close_look
from PIL import Image, ImageDraw, ImageFont

from wsiproc.core.geometry import Box
from wsiproc.io.slides.open import open_slide

SIDE_PX, GAP_PX, TITLE_PX = 460, 16, 34  # per panel
# From zero to certain.
RAMP = np.array([(15, 20, 27), (0, 114, 178), (86, 180, 233), (240, 228, 66)], float)
TITLES = {"activation": "self-activation", "nucleus": "probability of a nucleus"}


def map_of(folder: Path, frame: Box) -> tuple[str, Image.Image]:
    """Title and coloured image of one folder's map."""
    maps = zarr.open_group(folder / "maps.ome.zarr", mode="r")
    names = [channel["label"] for channel in maps.attrs.asdict()["ome"]["omero"]["channels"]]
    name = "activation" if "activation" in names else "nucleus"
    scale_y, scale_x = json.loads((folder / "run.json").read_text(encoding="utf-8"))["grid"]["scale"]
    rows = slice(round(frame.y / scale_y), round(frame.y1 / scale_y))
    columns = slice(round(frame.x / scale_x), round(frame.x1 / scale_x))
    values = np.asarray(maps["0"][names.index(name), rows, columns]) / 255 * (len(RAMP) - 1)
    colours = np.stack([np.interp(values, range(len(RAMP)), band) for band in RAMP.T], axis=-1)
    return TITLES[name], Image.fromarray(colours.astype(np.uint8))


def main(target: Path, frame: Box, folders: list[Path]) -> None:
    """Write the panels, two per row, in processing order."""
    slide = json.loads((folders[-1] / "run.json").read_text(encoding="utf-8"))["slide"]
    path = Path(slide["path"])
    with open_slide(path, slide["mpp"]) as opened:
        pixels = Image.fromarray(opened.read(frame, opened.mpp))
    cells = close_look(path, slide["mpp"], folders[-1], frame)
    panels = [("slide", pixels), *(map_of(folder, frame) for folder in folders), ("cells", cells)]
    rows = -(-len(panels) // 2)
    picture = Image.new("RGB", (2 * SIDE_PX + 3 * GAP_PX, rows * (SIDE_PX + TITLE_PX + GAP_PX)), "white")
    draw = ImageDraw.Draw(picture)
    for number, (title, panel) in enumerate(panels):
        y = number // 2 * (SIDE_PX + TITLE_PX + GAP_PX)
        x = GAP_PX + number % 2 * (SIDE_PX + GAP_PX)
        words = f"{number + 1}  {title}"
        draw.text((x, y + TITLE_PX / 2), words, fill=(22, 32, 44), font=ImageFont.load_default(20), anchor="lm")
        picture.paste(panel.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC), (x, y + TITLE_PX))
    picture.save(target, quality=88)


if __name__ == "__main__":
    y, x, side = (int(value) for value in sys.argv[2:5])
    place = Box(y - side // 2, x - side // 2, side, side)
    main(Path(sys.argv[1]), place, [Path(folder) for folder in sys.argv[5:]])
