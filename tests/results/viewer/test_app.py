"""The server of the viewer, over real results and real HTTP."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import cv2
import geopandas
import numpy as np
import psutil
import pytest
import tensorstore

import wsiproc.results.viewer
from tests.results.viewer.serving import ODD, Shown, decoded, viewing
from wsiproc.core.geometry import Box
from wsiproc.io.ome_zarr import image as ngff
from wsiproc.io.slides.open import open_slide

IHC = "api/slides/ihc"
STATIC = Path(wsiproc.results.viewer.__file__).parent / "static"


def picture(shown: Shown, path: str) -> np.ndarray:
    status, _, body = shown.get(path)
    assert status == 200, body
    return decoded(body)


def test_every_slide_is_listed_with_its_counts(shown: Shown, results: Path) -> None:
    cards = {card["name"]: card for card in shown.json("api/slides")}
    assert set(cards) == {"ihc", ODD.replace("<", "_").replace(">", "_")}
    table = geopandas.read_parquet(results / "ihc/cells.parquet")
    assert cards["ihc"]["cells"] == len(table)
    assert cards["ihc"]["positive_index"] == pytest.approx((table["class"] == "Positive").mean())
    for name in cards:
        facts = shown.json(f"api/slides/{quote(name, safe='')}")
        assert facts["slide_there"] is True
        assert sum(kind["cells"] for kind in facts["classes"]) == cards[name]["cells"]
        assert picture(shown, f"api/slides/{quote(name, safe='')}/thumbnail.jpg?px=100").shape[:2] <= (100, 100)


def test_the_page_says_what_it_may_load(shown: Shown) -> None:
    status, headers, body = shown.get("")
    assert status == 200
    assert b"{{" not in body
    assert "script-src 'self';" in headers["content-security-policy"]
    assert b"http://" not in body
    assert b"https://" not in body
    for file in (
        *(f"static/{path.relative_to(STATIC).as_posix()}" for path in STATIC.rglob("*.js")),
        "static/view.css",
        "static/openseadragon/LICENSE.txt",
    ):
        assert shown.get(file)[0] == 200


@pytest.mark.parametrize("level", [0, 1, 3])
def test_slide_tiles_are_the_slide(shown: Shown, view_slides: Path, level: int) -> None:
    with open_slide(view_slides / "ihc.tif") as slide:
        side = 512
        box = Box(0, side, side, side).clip((-(-2300 // 2**level), -(-3100 // 2**level)))
        if not box.area:
            box = Box(0, 0, side, side).clip((round(2300 / 2**level), round(3100 / 2**level)))
        truth = slide.read(box, 0.25 * 2**level)
    tile = picture(shown, f"{IHC}/slide/{level}/0/{box.x // side}.jpg")
    assert tile.shape == truth.shape
    assert np.abs(tile.astype(int) - truth).mean() < 4


@pytest.mark.parametrize("level", [-2, -1, 0, 1])
def test_cell_tiles_show_the_labels(shown: Shown, results: Path, level: int) -> None:
    """Filled tiles cover the pixels of the cells, at every zoom and whatever they are drawn from."""
    labels = ngff.read_box(results / "ihc/slide.ome.zarr/labels/cells", 0, Box(0, 0, 1150, 1550)) > 0
    side = int(512 * 2.0**level)
    y, x = np.argwhere(labels)[labels.sum() // 2] // side  # a tile with cells in it
    tile = picture(shown, f"{IHC}/cells/{level}/{y}/{x}.png?filled=1")
    truth = labels[y * side : (y + 1) * side, x * side : (x + 1) * side]
    size = truth.shape[::-1]
    seen = cv2.resize(tile[..., 3], size, interpolation=cv2.INTER_AREA if level < 0 else cv2.INTER_NEAREST) > 64
    reach = 3 if level <= 0 else 2 ** (level + 1) + 1
    near = cv2.dilate(labels.astype(np.uint8), np.ones((reach, reach)))[y * side : (y + 1) * side, x * side :]
    assert (seen & truth).sum() / truth.sum() > (0.97 if level <= 0 else 0.9)
    assert (seen & (near[:, : size[0]] == 0)).mean() < 0.002


def test_hidden_classes_are_not_drawn(shown: Shown) -> None:
    colours = {kind["name"]: bytes.fromhex(kind["colour"][1:]) for kind in shown.json(IHC)["classes"]}
    names = list(colours)
    for level in (0, 1, 3):
        tile = picture(shown, f"{IHC}/cells/{level}/0/0.png?filled=1&hide={names.index('Negative')}")
        seen = {bytes(pixel) for pixel in tile[tile[..., 3] > 0][:, :3]}
        assert seen == {colours["Positive"]}
        assert not picture(shown, f"{IHC}/cells/{level}/0/0.png?hide=0,1")[..., 3].any()


def test_all_cells_are_there_from_far_away(shown: Shown) -> None:
    tile = picture(shown, f"{IHC}/cells/3/0/0.png")
    assert tile.shape[:2] == (-(-1150 // 8), -(-1550 // 8))
    assert (tile[..., 3] > 0).sum() > 0.5 * shown.json(IHC)["cells"]


def test_maps_tissue_and_density_cover_the_slide(shown: Shown, results: Path) -> None:
    truth = ngff.read_box(results / "ihc/maps.ome.zarr", 1, Box(0, 0, 512, 512))[0]
    assert (picture(shown, f"{IHC}/maps/0/1/0/0.png")[..., 3] == truth).all()
    tissue = picture(shown, f"{IHC}/tissue.png")
    density = picture(shown, f"{IHC}/density.png")
    for layer in (tissue, density):
        assert layer.shape[0] / layer.shape[1] == pytest.approx(2300 / 3100, rel=0.05)
    assert (tissue[..., 3] > 0).mean() == pytest.approx(0.8, abs=0.2)
    assert 0.3 < (density[..., 3] > 0).mean() < 1


def test_a_picked_cell_is_the_one_under_the_pointer(shown: Shown, results: Path) -> None:
    table = geopandas.read_parquet(results / "ihc/cells.parquet")
    for _, row in table.iloc[:: len(table) // 20].iterrows():
        point = row.geometry.representative_point()
        cell = shown.json(f"{IHC}/cell?x={point.x}&y={point.y}")
        assert (cell["id"], cell["class"]) == (row["id"], row["class"])
        assert cell["measurements"]["area_um2"] == pytest.approx(row["area_um2"])
        assert cell == shown.json(f"{IHC}/cell?id={row['id']}")
    glass = shown.json(f"{IHC}/cell?x=-5&y=3")
    assert glass is None
    assert shown.json(f"{IHC}/cell?id={len(table) + 1}") is None
    assert shown.get(f"{IHC}/cell?x=nan&y=3")[0] == 400


def test_the_zarr_is_read_over_http_with_ranges(shown: Shown, results: Path) -> None:
    """By a reader of its own, which reads shards by byte ranges."""
    base = f"{shown.address}zarr/ihc/slide.ome.zarr/labels/cells/0/"
    array = tensorstore.open({"driver": "zarr3", "kvstore": {"driver": "http", "base_url": base}}).result()
    found = array[100:400, 200:700].read().result()
    assert np.array_equal(found, ngff.read_box(results / "ihc/slide.ome.zarr/labels/cells", 0, Box(100, 200, 300, 500)))
    status, headers, body = shown.get("zarr/ihc/slide.ome.zarr/zarr.json", Range="bytes=2-9")
    assert (status, len(body)) == (206, 8)
    assert headers["content-range"].startswith("bytes 2-9/")


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [("https://hms-dbmi.github.io", True), ("http://localhost:8080", True), ("https://evil.example", False)],
)
def test_only_known_viewers_may_read_the_zarr_from_their_pages(shown: Shown, origin: str, allowed: bool) -> None:
    _, headers, _ = shown.get("zarr/ihc/maps.ome.zarr/zarr.json", Origin=origin)
    assert (headers.get("access-control-allow-origin") == origin) is allowed
    assert "access-control-allow-origin" not in shown.get("api/slides", Origin=origin)[1]


def test_no_page_elsewhere_reaches_it_through_a_name_of_its_own(shown: Shown) -> None:
    assert shown.get("api/slides", Host="evil.example")[0] == 400
    assert shown.get("api/slides", Host="localhost:1")[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "zarr/ihc/slide.ome.zarr/../run.json",
        "zarr/ihc/slide.ome.zarr/%2e%2e/run.json",
        "zarr/ihc/slide.ome.zarr/..%2frun.json",
        "zarr/ihc/slide.ome.zarr/%2e%2e%2f%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "zarr/ihc/slide.ome.zarr//etc/passwd",
        "zarr/ihc/run.json",
        "zarr/ihc/cells.parquet/x",
        "zarr/../run.json",
        "zarr/ihc/slide.ome.zarr/link",
        "zarr/ihc/slide.ome.zarr/labels",
        "static/../app.py",
        "static/%2e%2e/app.py",
        "api/slides/..%2f..",
        "api/slides/none",
        f"{IHC}/slide/0/99/0.jpg",
        f"{IHC}/cells/-3/0/0.png",
        f"{IHC}/cells/x/0/0.png",
        f"{IHC}/maps/9/0/0/0.png",
    ],
)
def test_nothing_else_is_served(shown: Shown, results: Path, path: str) -> None:
    link = results / "ihc/slide.ome.zarr/link"
    if not link.is_symlink():
        link.symlink_to(results / "ihc/run.json")
    status, _, body = shown.get(path)
    assert status in (400, 404, 500)
    assert b"fingerprint" not in body
    assert b"root:" not in body
    assert b"Traceback" not in body


def test_it_listens_on_this_machine_only(shown: Shown) -> None:
    listening = [c.laddr.ip for c in psutil.Process(shown.pid).net_connections() if c.status == psutil.CONN_LISTEN]
    assert listening == ["127.0.0.1"]


def test_nothing_can_be_changed(shown: Shown) -> None:
    import urllib.request

    for method in ("POST", "PUT", "DELETE"):
        request = urllib.request.Request(shown.address + "api/slides", method=method, data=b"")
        with pytest.raises(urllib.error.HTTPError, match="405"):
            urllib.request.urlopen(request, timeout=10)


def test_a_slide_that_is_gone_is_stood_in_for_and_found_again(results: Path, view_slides: Path, tmp_path: Path) -> None:
    moved = tmp_path / "results"
    shutil.copytree(results / "ihc", moved / "ihc", symlinks=True)
    text = (moved / "ihc/run.json").read_text()
    (moved / "ihc/run.json").write_text(text.replace(str(view_slides), "/nowhere"))
    (tmp_path / "elsewhere").mkdir()
    with viewing(moved) as without:
        assert without.json(IHC)["slide_there"] is False
        blurred = picture(without, f"{IHC}/slide/1/0/0.jpg")
    shutil.copy(view_slides / "ihc.tif", tmp_path / "elsewhere")
    with viewing(moved / "ihc", "--slides", tmp_path / "elsewhere") as again:
        assert again.json(IHC)["slide_there"] is True
        sharp = picture(again, f"{IHC}/slide/1/0/0.jpg")
    assert blurred.shape == sharp.shape
    assert np.abs(blurred.astype(int) - sharp).mean() < 12


def refused(*arguments: object) -> str:
    command = [sys.executable, "-m", "wsiproc.cli.main", "view", *map(str, arguments), "--no-browser"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    return done.stderr


def test_what_cannot_be_shown_is_told(tmp_path: Path, results: Path) -> None:
    assert f"{tmp_path}: no finished slide in it" in refused(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port} is in use" in refused(results, "--port", port)
    assert "cannot listen on 192.0.2.1" in refused(results, "--host", "192.0.2.1", "--port", 0)


def test_results_that_cannot_be_read_cost_no_other(results: Path, tmp_path: Path) -> None:
    for name, text in (("old", '{"wsiproc": "0.0.1"}'), ("torn", '{"wsipr'), ("list", "[]")):
        (tmp_path / "mixed" / name).mkdir(parents=True)
        (tmp_path / "mixed" / name / "run.json").write_text(text)
    assert refused(tmp_path / "mixed").count("wsiproc run --overwrite makes the result again") == 3
    shutil.copytree(results / "ihc", tmp_path / "mixed/ihc", symlinks=True)
    with viewing(tmp_path / "mixed", results / "ihc") as both:
        assert [card["name"] for card in both.json("api/slides")] == ["ihc", "ihc (2)"]
