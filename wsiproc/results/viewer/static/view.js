// The page: OpenSeadragon over the slide, overlays that the server draws, and what one can do with them.

import { $, api, button, complain, copy, element, get, number, toast } from "./dom.js";
import { onClasses } from "./panels/classes.js";
import { goTo, length, newViewer, stage, toSlide, umPerPixel, zoomFor } from "./image/frames.js";
import { hover, mark, openCells, pick, pickAt, startCells, toggleGallery, walk } from "./panels/cells.js";
import { openAreas, size, startAreas } from "./panels/areas.js";
import { putLayersOn, startLayers, toggle, veilLayers } from "./image/layers.js";
import { startMeasure } from "./panels/measure.js";
import { makeDrawing, moveDrawing, veilDrawing } from "./image/overlay.js";
import { openPair, second, startPair } from "./image/pair.js";
import { savePicture } from "./image/picture.js";
import { startPositivity } from "./panels/positivity.js";
import { holdAddress, keptInAddress, loadAddress, readAddress, releaseAddress, state, writeAddress } from "./state.js";
import { pyramid } from "./image/tiles.js";
import { enterKey, escapeTool, icon, openTools, startTools, toolClick, toolHover, toolKey } from "./panels/tools.js";

const MAGNIFICATIONS = [1, 5, 10, 20, 40];
const UM_AT_40X = 0.25; // µm per px of what is called 40×
const KEPT_TILES = 60; // of 512 px, a MiB each

let viewer = null;

// --- scale and magnification ---

const showScale = () => {
  const um = umPerPixel();
  const wanted = um * 84;
  const power = 10 ** Math.floor(Math.log10(wanted));
  const bar = [5, 2, 1].map((factor) => factor * power).find((value) => value <= wanted) ?? power;
  $("scale").querySelector("i").style.width = `${bar / um}px`;
  $("length").textContent = length(bar);
  for (const one of $("tools").querySelectorAll("button[data-um]")) {
    one.setAttribute("aria-pressed", String(Math.abs(Math.log2(Number(one.dataset.um) / um)) < 0.02));
  }
};

const listMagnifications = () => {
  const fit = button("Fit", "The whole slide (0)", () => viewer.viewport.goHome());
  const steps = MAGNIFICATIONS.map((times) => {
    const um = (UM_AT_40X * 40) / times;
    const one = element("button", { type: "button", textContent: `${times}×`, title: `${um} µm a pixel`, onclick: () => viewer.viewport.zoomTo(zoomFor(um)) });
    one.dataset.um = um;
    return one;
  });
  $("tools").replaceChildren(element("span", { className: "group" }, fit, ...steps));
};

const listActions = () => {
  const made = (d, text, key, onclick) => element("button", { type: "button", title: `${text}${key ? ` (${key})` : ""}`, ariaLabel: text, onclick }, icon(d));
  $("tools").append(element("span", { className: "group" },
    made("M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4M15.5 9.5h.1", "Save the view as an image", "s", () => savePicture().catch(complain)),
    made("M10 14a4 4 0 0 0 6 0l3-3a4 4 0 0 0-6-6l-1 1M14 10a4 4 0 0 0-6 0l-3 3a4 4 0 0 0 6 6l1-1", "Copy the address of the view", "u", () => copy(location.href, "Address"))));
};

// --- slides ---

const card = (slide) => {
  const index = slide.positive_index === null ? "" : `, ${number(100 * slide.positive_index, 1)} % positive`;
  return element("li", {}, element(
    "button",
    { type: "button", title: slide.name, ariaCurrent: String(slide.name === state.facts?.name), onclick: () => open(slide.name) },
    element("img", { src: api(slide.name, "/thumbnail.jpg?px=108"), loading: "lazy", alt: "" }),
    element("span", {}, element("b", {}, slide.name), element("span", { className: "soft" }, `${number(slide.cells)} cells${index}`)),
  ));
};

const listSlides = () => {
  $("slides").hidden = state.slides.length < 2;
  $("find").hidden = state.slides.length < 8;
  const wanted = $("find").value.toLowerCase();
  $("cards").replaceChildren(...state.slides.filter((slide) => slide.name.toLowerCase().includes(wanted)).map(card));
};

const step = (by) => {
  const at = state.slides.findIndex((slide) => slide.name === state.facts.name);
  const next = state.slides[at + by];
  if (next) open(next.name);
};

const tellSlide = () => {
  const facts = state.facts;
  document.title = `${facts.name} · wsiproc`;
  $("name").textContent = facts.name;
  const told = [`${number(facts.cells)} cells`, size(facts.tissue_mm2)];
  if (facts.cells_per_mm2 !== null) told.push(`${number(facts.cells_per_mm2)} cells/mm²`);
  if (facts.positive_index !== null) told.push(`${number(100 * facts.positive_index, 1)} % positive`);
  $("summary").replaceChildren(...told.map((text) => element("span", {}, text)));
  $("version").textContent = `model ${facts.model}, wsiproc ${facts.version}`;
  const messages = [...facts.messages];
  if (!facts.slide_there) messages.unshift("The slide file is not where it was; its overview is shown instead. Give its folder: wsiproc view … --slides FOLDER");
  $("notes").hidden = !messages.length;
  $("messages").replaceChildren(...messages.map((text) => element("li", {}, text)));
};

// A measurement that is looked at stays when another slide is opened.
const carried = () => {
  const address = new URLSearchParams();
  if (state.measure) address.set("measure", state.measure.name);
  if (state.paint) address.set("paint", "1");
  return address;
};

const open = async (name, address = carried()) => {
  try {
    holdAddress();
    state.facts = await get(api(name));
    viewer.close();
    tellSlide();
    listSlides();
    await loadAddress(address);
    viewer.addOnceHandler("open", () => opened(address).catch(complain));
    viewer.open(pyramid(state.facts, state.facts.shape, 0, 24, (k, row, col) => `${api(name)}/slide/${k}/${row}/${col}.jpg`));
  } catch (error) {
    complain(error);
  }
};

// A panel that was just folded leaves more room, which OpenSeadragon sees at its next frame; a zoom is one of a width.
const resized = async () => {
  for (let frame = 0; frame < 60 && viewer.viewport.getContainerSize().x !== $("stage").clientWidth; frame += 1) await new Promise(requestAnimationFrame);
};

const opened = async (address) => {
  await resized();
  makeDrawing();
  putLayersOn();
  if (address.has("um")) {
    viewer.viewport.zoomTo(zoomFor(Number(address.get("um"))), null, true);
    goTo(Number(address.get("x")), Number(address.get("y")));
    viewer.viewport.applyConstraints(true);
  }
  showScale();
  openTools(address);
  await Promise.all([openAreas(address), openCells(address), openPair(address)]);
  releaseAddress();
};

keptInAddress(
  (address) => {
    if (!viewer.world.getItemCount()) return;
    const at = toSlide(viewer.viewport.getCenter());
    address.set("x", at.x.toFixed(0));
    address.set("y", at.y.toFixed(0));
    address.set("um", umPerPixel().toPrecision(4));
    if (document.body.classList.contains("folded")) address.set("panel", "0");
  },
  (address) => address.get("panel") === "0" && fold(true),
);

// --- panel ---

const fold = (on) => {
  document.body.classList.toggle("folded", on);
  $("fold").setAttribute("aria-expanded", String(!on));
  $("fold").ariaLabel = $("fold").title = on ? "Show the panel" : "Hide the panel";
  writeAddress();
};

// --- keys ---

const veil = (on) => {
  veilLayers(on);
  veilDrawing(on);
};

const zoomed = () => second() ?? viewer;

const pan = (dx, dy) => {
  const { viewport } = zoomed();
  const bounds = viewport.getBounds();
  viewport.panBy(new OpenSeadragon.Point(dx * bounds.width, dy * bounds.height).rotate(-viewport.getRotation()));
};

const KEYS = {
  "+": () => zoomed().viewport.zoomBy(1.5),
  "=": () => zoomed().viewport.zoomBy(1.5),
  "-": () => zoomed().viewport.zoomBy(1 / 1.5),
  0: () => viewer.viewport.goHome(),
  f: () => $("filled").click(),
  n: () => step(1),
  p: () => step(-1),
  j: () => walk(1),
  k: () => walk(-1),
  g: () => toggleGallery(),
  y: () => mark("right"),
  x: () => mark("wrong"),
  c: () => ($("other-class") ? $("other-class").focus() : toast("Choose a cell first, and start wsiproc view with --write")),
  s: () => savePicture().catch(complain),
  u: () => copy(location.href, "Address"),
  "[": () => fold(!document.body.classList.contains("folded")),
  "?": () => $("keys").showModal(),
  Escape: () => escapeTool() || pick(null),
};
const MOVES = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] };

const onKey = (event) => {
  const from = event.target;
  const writing = from.matches("input[type=search], input[type=text], input[type=number], select") && event.key !== "Escape";
  if (writing || !viewer.isOpen() || $("keys").open || event.ctrlKey || event.metaKey || event.altKey) return;
  const pressable = from.matches("input, button, summary, a, select");
  if (MOVES[event.key]) {
    if (from.matches("input")) return;
    pan(...MOVES[event.key]);
  } else if (event.key === " ") {
    if (pressable) return;
    veil(true);
  } else if (event.key === "Enter") {
    if (pressable) return;
    if (!enterKey()) pickAt(viewer.viewport.getContainerSize().divide(2));
  } else if (/^[1-9]$/.test(event.key)) {
    const layer = state.layers[Number(event.key) - 1];
    if (layer) toggle(layer);
  } else if (KEYS[event.key]) KEYS[event.key]();
  else if (!toolKey(event.key)) return;
  event.preventDefault();
};

// --- start ---

const makeViewer = () => {
  viewer = stage.viewer = newViewer("stage", {
    showNavigator: true,
    navigatorPosition: "BOTTOM_RIGHT",
    navigatorSizeRatio: 0.16,
    navigatorAutoFade: false,
    minZoomImageRatio: 0.6,
    visibilityRatio: 0.2,
    imageLoaderLimit: 6,
    maxImageCacheCount: KEPT_TILES,
    clickTimeThreshold: 2000, // ms; what tells a click from a drag is how far it moved, not how slow a hand or computer is
  });
  window.viewer = viewer; // for those who look under the bonnet
  viewer.addHandler("animation", showScale);
  viewer.addHandler("update-viewport", moveDrawing);
  viewer.addHandler("animation-finish", writeAddress);
  viewer.addHandler("resize", showScale);
  viewer.addHandler("canvas-click", (event) => {
    if (!toolClick(event) && event.quick) pickAt(event.position);
  });
  const moved = ({ position }) => {
    if (!viewer.isOpen()) return;
    hover(position);
    toolHover(position);
  };
  new OpenSeadragon.MouseTracker({ element: viewer.container, moveHandler: moved });
};

const start = async () => {
  makeViewer();
  listMagnifications();
  startTools();
  listActions();
  for (const begin of [startLayers, startMeasure, startPositivity, startAreas, startCells, startPair]) begin();
  onClasses(writeAddress);
  $("fold").onclick = () => fold(!document.body.classList.contains("folded"));
  $("help").onclick = () => $("keys").showModal();
  $("find").oninput = listSlides;
  document.addEventListener("keydown", onKey);
  document.addEventListener("keyup", (event) => event.key === " " && veil(false));
  state.slides = await get("api/slides");
  const address = readAddress();
  const named = state.slides.find((slide) => slide.name === address.get("slide"));
  await open((named ?? state.slides[0]).name, named ? address : new URLSearchParams());
  window.addEventListener("hashchange", () => open(readAddress().get("slide") ?? state.facts.name, readAddress()));
};

start().catch(complain);
