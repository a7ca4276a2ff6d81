// Two slides side by side that move together: a similarity, set by two points that are the same in both.

import { $, api, complain, element, get, say, toast } from "../dom.js";
import { centre, goTo, newViewer, stage, umPerPixel } from "./frames.js";
import { keptInAddress, state, writeAddress } from "../state.js";
import { pyramid } from "./tiles.js";

let viewer = null; // of the second slide
let facts = null;
let pairs = []; // [ax, ay, bx, by]: px of the first and of the second slide
let aligning = false;
let leads = "first";
let moving = false;

// b = m · a + t, in complex numbers: m turns and scales, t shifts.
const times = ([a, b], [c, d]) => [a * c - b * d, a * d + b * c];
const minus = ([a, b], [c, d]) => [a - c, b - d];
const over = ([a, b], [c, d]) => [(a * c + b * d) / (c * c + d * d), (b * c - a * d) / (c * c + d * d)];

const similarity = () => {
  let m = [state.facts.mpp / facts.mpp, 0];
  let [from, to] = [[state.facts.shape[1] / 2, state.facts.shape[0] / 2], [facts.shape[1] / 2, facts.shape[0] / 2]];
  if (pairs.length) [from, to] = [pairs[0].slice(0, 2), pairs[0].slice(2)];
  if (pairs.length > 1) m = over(minus(pairs[1].slice(2), to), minus(pairs[1].slice(0, 2), from));
  return { m, t: minus(to, times(m, from)) };
};

const secondCentre = () => {
  const point = viewer.viewport.getCenter();
  return [point.x * facts.shape[1], point.y * facts.shape[1]];
};

const secondUm = () => (facts.shape[1] * facts.mpp) / (viewer.viewport.getZoom() * viewer.viewport.getContainerSize().x);

// How many µm of the second slide are one of the first.
const stretch = (m) => (Math.hypot(...m) * facts.mpp) / state.facts.mpp;

const follow = () => {
  if (!viewer?.isOpen() || aligning || moving) return;
  const { m, t } = similarity();
  moving = true;
  if (leads === "first") {
    const at = centre();
    const [x, y] = times(m, [at.x, at.y]).map((part, axis) => part + t[axis]);
    const um = umPerPixel() * stretch(m);
    viewer.viewport.setRotation((-Math.atan2(m[1], m[0]) * 180) / Math.PI, true);
    viewer.viewport.zoomTo((facts.shape[1] * facts.mpp) / (um * viewer.viewport.getContainerSize().x), null, true);
    viewer.viewport.panTo(new OpenSeadragon.Point(x / facts.shape[1], y / facts.shape[1]), true);
  } else {
    const [x, y] = over(minus(secondCentre(), t), m);
    goTo(x, y, secondUm() / stretch(m));
  }
  moving = false;
};

const tellAlign = () => {
  $("align").textContent = aligning ? `Set point ${pairs.length + 1}` : pairs.length > 1 ? "Align again" : "Align";
  $("align-cancel").hidden = !aligning;
  document.body.classList.toggle("aligning", aligning);
  $("align-help").textContent = aligning ? "Move each slide until the same place lies under both crosses, then set the point; twice, far apart." : "";
};

const align = () => {
  if (!aligning) {
    aligning = true;
    pairs = [];
  } else {
    const at = centre();
    pairs.push([at.x, at.y, ...secondCentre()]);
    say(`Point ${pairs.length} set`);
    if (pairs.length === 2) {
      if (Math.hypot(pairs[1][0] - pairs[0][0], pairs[1][1] - pairs[0][1]) < 1 || Math.hypot(pairs[1][2] - pairs[0][2], pairs[1][3] - pairs[0][3]) < 1) {
        pairs.pop();
        toast("The second point is where the first one was: move both slides on");
      } else {
        aligning = false;
        leads = "first";
        follow();
        toast("Aligned: both slides move together");
      }
    }
  }
  tellAlign();
  writeAddress();
};

const cells = (k, row, col) => `${api(facts.name)}/cells/${k}/${row}/${col}.png`;

const makeViewer = () => {
  viewer = newViewer("second", { minZoomImageRatio: 0.2, visibilityRatio: 0, imageLoaderLimit: 4, maxImageCacheCount: 60 });
  window.secondViewer = viewer; // as window.viewer
  viewer.addHandler("animation", () => leads === "second" && follow());
  const leading = (which) => () => (leads = which);
  for (const [id, which] of [["second", "second"], ["stage", "first"], ["panel", "first"], ["tools", "first"]]) {
    for (const kind of ["pointerdown", "wheel", "focusin", "keydown"]) $(id).addEventListener(kind, leading(which), { capture: true, passive: true });
  }
};

export const second = () => (viewer && leads === "second" && $("second").contains(document.activeElement) ? viewer : null);

const close = () => {
  facts = null;
  aligning = false;
  pairs = [];
  viewer?.close();
  $("second-side").hidden = true;
  $("with").value = "";
  tellAlign();
};

const open = async (name) => {
  facts = await get(api(name));
  $("second-side").hidden = false;
  $("second-name").textContent = name;
  $("second").setAttribute("aria-label", `The second slide, ${name}`);
  $("with").value = name;
  if (!viewer) makeViewer();
  leads = "first";
  const here = facts;
  viewer.addOnceHandler("open", () => {
    viewer.addTiledImage({ tileSource: pyramid(here, here.grid.shape, here.finest, 24, cells), x: 0, y: 0, width: 1 });
    follow();
  });
  viewer.open(pyramid(here, here.shape, 0, 24, (k, row, col) => `${api(name)}/slide/${k}/${row}/${col}.jpg`));
};

export const startPair = () => {
  stage.viewer.addHandler("animation", () => facts && leads === "first" && follow());
  stage.viewer.addHandler("resize", () => facts && setTimeout(follow, 100));
  $("with").onchange = async () => {
    const name = $("with").value;
    close();
    try {
      if (name) await open(name);
    } catch (error) {
      complain(error);
    }
    writeAddress();
  };
  $("align").onclick = align;
  $("align-cancel").onclick = () => {
    aligning = false;
    pairs = [];
    follow();
    tellAlign();
    writeAddress();
  };
};

export const openPair = async (address) => {
  const name = address.get("with");
  if (!state.slides.some((slide) => slide.name === name && name !== state.facts.name)) return;
  await open(name);
  pairs = (address.get("align") ?? "").split(";").map((text) => text.split(",").map(Number)).filter((four) => four.length === 4 && four.every(Number.isFinite)).slice(0, 2);
  tellAlign();
};

keptInAddress(
  (address) => {
    if (!facts) return;
    address.set("with", facts.name);
    if (pairs.length) address.set("align", pairs.map((four) => four.map((value) => value.toFixed(1)).join(",")).join(";"));
  },
  () => {
    close();
    const others = state.slides.filter((slide) => slide.name !== state.facts.name);
    $("compare").hidden = !others.length;
    $("with").replaceChildren(element("option", { value: "", textContent: "none" }), ...others.map((slide) => element("option", { value: slide.name, textContent: slide.name })));
  },
);
