// What the pointer draws: a ruler, an area as rectangle, polygon or freehand, or the outline of a cell. By keyboard, Enter sets a point at the cross.

import { $, drawn, element, mayWrite, say, toast } from "../dom.js";
import { addArea } from "./areas.js";
import { drawCell } from "./cells.js";
import { centre, fromScreen, length, stage, toScreen } from "../image/frames.js";
import { draw, path } from "../image/overlay.js";
import { keptInAddress, state, writeAddress } from "../state.js";

const ICONS = {
  hand: "M12 3v18M3 12h18M12 3l-3 3m3-3 3 3M12 21l-3-3m3 3 3-3M3 12l3-3m-3 3 3 3M21 12l-3-3m3 3-3 3",
  ruler: "M3 15 15 3l6 6L9 21zM7 11l2 2m1-5 3 3m0-6 2 2",
  rectangle: "M4 6h16v12H4z",
  polygon: "M12 3 21 10 17 20H7L3 10z",
  freehand: "M5 16c-4-6 3-13 8-11s9 4 6 9-4 1-7 3-5 3-7-1z",
  outline: "M8 17c-3-1-4-4-3-7s5-5 8-4M17 13c0 3-2 4-5 4.5M11 13l1-3 7-7 2 2-7 7z",
};
const TOOLS = [
  ["hand", "Move", "h"],
  ["ruler", "Ruler", "m"],
  ["rectangle", "Area: rectangle", "b"],
  ["polygon", "Area: polygon", "o"],
  ["freehand", "Area: freehand", "l"],
  ...(mayWrite ? [["outline", "Cell: outline", "d"]] : []),
];
const FREEHAND = ["freehand", "outline"];
const NEAR_PX = 9;
const APART_PX = 3; // freehand points closer than this on the screen are not kept

let tool = "hand";
let points = []; // of what is being drawn, in px of the slide
let rulers = null; // the two ends of the ruler

const byHand = () => FREEHAND.includes(tool);

export const icon = (d) => {
  const made = drawn("svg", { viewBox: "0 0 24 24", class: "icon", "aria-hidden": "true" });
  made.append(drawn("path", { d }));
  return made;
};

const um = ([ax, ay], [bx, by]) => Math.hypot(bx - ax, by - ay) * state.facts.mpp;

const drawRuler = () => {
  if (!rulers) {
    draw("ruler", []);
    return;
  }
  const [a, b] = rulers;
  const line = `M${a.join(" ")}L${b.join(" ")}`;
  draw("ruler", [path("ruler halo", line), path("ruler", line)], [{ x: (a[0] + b[0]) / 2, y: (a[1] + b[1]) / 2, text: length(um(a, b)), kind: "label ruler-length" }]);
};

const drawDraft = (to = null) => {
  const all = to ? [...points, to] : points;
  if (!all.length) return draw("draft", []);
  const shape = tool === "rectangle" && all.length > 1 ? rectangle(all[0], all[all.length - 1]) : all;
  const line = `M${shape.map((point) => point.join(" ")).join("L")}${tool === "ruler" ? "" : "Z"}`;
  const texts = tool === "ruler" && all.length > 1 ? [{ x: all[1][0], y: all[1][1], text: length(um(all[0], all[1])), kind: "label ruler-length" }] : [];
  const corners = byHand() ? [] : points.map(([x, y]) => ({ x, y, text: "•", kind: "label corner" }));
  return draw("draft", [path("area halo", line), path("area draft", line)], [...texts, ...corners]);
};

const rectangle = ([ax, ay], [bx, by]) => [[ax, ay], [bx, ay], [bx, by], [ax, by]];

const cancel = () => {
  points = [];
  drawDraft();
};

const finish = () => {
  const shape = tool === "rectangle" && points.length === 2 ? rectangle(...points) : points;
  const made = tool;
  cancel();
  if (made === "ruler") {
    if (shape.length < 2) return;
    rulers = shape.slice(0, 2);
    drawRuler();
    writeAddress();
    say(`${length(um(...rulers))} long`);
  } else if (shape.length >= 3) {
    const rounded = shape.map((corner) => corner.map((value) => Math.round(value * 10) / 10));
    const geometry = { type: "Polygon", coordinates: [[...rounded, rounded[0]]] };
    if (made === "outline") drawCell(geometry);
    else addArea(geometry);
  } else if (made !== "outline") toast("An area needs three corners");
};

const apart = (a, b) => {
  const [p, q] = [a, b].map(([x, y]) => toScreen(x, y));
  return Math.hypot(p.x - q.x, p.y - q.y);
};

// A point is set: two make a ruler or a rectangle; a polygon ends where it began, or where the last point was set again.
const setPoint = (point) => {
  const closes = tool === "polygon" && points.length > 2 && (apart(points[0], point) < NEAR_PX || apart(points.at(-1), point) < NEAR_PX);
  if (closes) return finish();
  points.push(point);
  drawDraft();
  say(`Point ${points.length} set`);
  if (points.length === 2 && (tool === "ruler" || tool === "rectangle")) finish();
};

const at = (event) => {
  const { x, y } = fromScreen(event.position);
  return [x, y];
};

let dragging = false;
let moved = false; // farther than a hand trembles, since the pointer was pressed
const busy = () => tool === "hand" || !stage.viewer.isOpen();
const press = () => (dragging = moved = false);

// What was given up while it was dragged has no points any more.
const drag = (event) => {
  if (busy()) return;
  event.preventDefaultAction = true;
  if (tool === "polygon" || (dragging && !points.length)) return;
  const point = at(event);
  if (!dragging) points = [at({ position: event.position.minus(event.delta) })];
  dragging = true;
  if (!byHand()) drawDraft(point);
  else if (apart(points.at(-1), point) >= APART_PX) {
    moved = true;
    points.push(point);
    drawDraft();
  }
};

const release = (event) => {
  if (busy() || !dragging) return;
  dragging = false;
  if (!points.length) return;
  if (!byHand()) points.push(at(event));
  finish();
};

const click = (event) => {
  if (busy()) return false;
  event.preventDefaultAction = true;
  if (tool === "outline") return moved; // a mere click chooses the cell to draw again
  if (event.quick && tool !== "freehand") setPoint(at(event));
  return true;
};

export const setTool = (name) => {
  cancel();
  tool = name;
  for (const one of $("tools").querySelectorAll("[data-tool]")) one.setAttribute("aria-pressed", String(one.dataset.tool === name));
  $("stage").dataset.tool = name;
  $("cross").hidden = name === "hand" || byHand();
  if (name !== "hand") say(`${TOOLS.find(([other]) => other === name)[1]}: ${byHand() ? "drag around it" : "click, or press Enter, to set points at the cross"}`);
};

export const toolKey = (key) => {
  const found = TOOLS.find(([, , letter]) => letter === key);
  if (found) setTool(found[0]);
  return Boolean(found);
};

export const enterKey = () => {
  if (tool === "hand" || byHand()) return false;
  const { x, y } = centre();
  setPoint([x, y]);
  return true;
};

// Escape first gives up what is being drawn, then the tool, then the ruler.
export const escapeTool = () => {
  if (points.length) cancel();
  else if (tool !== "hand") setTool("hand");
  else if (rulers) {
    rulers = null;
    drawRuler();
    writeAddress();
  } else return false;
  return true;
};

export const startTools = () => {
  const made = TOOLS.map(([name, text, key]) => {
    const one = element("button", { type: "button", title: `${text} (${key})`, ariaLabel: text, onclick: () => setTool(name) }, icon(ICONS[name]));
    one.dataset.tool = name;
    return one;
  });
  $("tools").append(element("span", { className: "group" }, ...made));
  stage.viewer.addHandler("canvas-press", press);
  stage.viewer.addHandler("canvas-drag", drag);
  stage.viewer.addHandler("canvas-release", release);
  // The second click of a pair sets a point, which ends a polygon; it does not zoom.
  stage.viewer.addHandler("canvas-double-click", (event) => (event.preventDefaultAction = tool !== "hand"));
  setTool("hand");
};

export const toolClick = click;
export const toolHover = (pixel) => {
  const { x, y } = fromScreen(pixel);
  if (points.length && !dragging && !byHand()) drawDraft([x, y]);
};

export const openTools = (address) => {
  const ends = (address.get("ruler") ?? "").split(",").map(Number);
  rulers = ends.length === 4 && ends.every(Number.isFinite) ? [ends.slice(0, 2), ends.slice(2)] : null;
  drawRuler();
};

keptInAddress(
  (address) => rulers && address.set("ruler", rulers.flat().map((value) => value.toFixed(1)).join(",")),
  () => (rulers = null),
);
