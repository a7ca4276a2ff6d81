// Drawn over the slide as SVG, as large as the stage: shapes in px of the slide are moved, labels stand where they belong.

import { drawn } from "../dom.js";
import { screenScale, stage, toScreen } from "./frames.js";
import { state } from "../state.js";

const GROUPS = ["regions", "areas", "drawn", "hover", "picked", "ruler", "draft", "marks"];
let drawing = null;
const labels = new Map(); // group → [{ x, y, text, kind }]

export const path = (kind, d) => drawn("path", { class: kind, d });
export const ring = (points) => `M${points.map((point) => point.join(" ")).join("L")}Z`;

// Whether a ring holds a point: a line from there to the right crosses it an odd number of times.
export const holds = (points, { x, y }) =>
  points.reduce((inside, [ax, ay], index) => {
    const [bx, by] = points.at(index - 1);
    return ay > y !== by > y && x < ax + ((y - ay) * (bx - ax)) / (by - ay) ? !inside : inside;
  }, false);

export const outline = (geometry) => {
  const polygons = geometry.type === "Polygon" ? [geometry.coordinates] : geometry.coordinates;
  return polygons.flat().map(ring).join("");
};

export const makeDrawing = () => {
  drawing?.remove();
  drawing = drawn("svg", { class: "overlay" });
  for (const id of [...GROUPS, "labels"]) drawing.append(drawn("g", { "data-id": id }));
  labels.clear();
  stage.viewer.canvas.append(drawing);
  moveDrawing();
};

export const theDrawing = () => drawing;
export const group = (id) => drawing.querySelector(`[data-id="${id}"]`);

export const moveDrawing = () => {
  if (!drawing || !state.facts) return;
  const corner = toScreen(0, 0);
  const transform = `translate(${corner.x} ${corner.y}) scale(${screenScale()})`;
  for (const id of GROUPS) group(id).setAttribute("transform", transform);
  for (const label of group("labels").children) {
    const at = toScreen(Number(label.dataset.x), Number(label.dataset.y));
    label.setAttribute("x", at.x);
    label.setAttribute("y", at.y);
  }
};

// The shapes of a group, and its labels; an empty list takes them away.
export const draw = (id, shapes, texts = []) => {
  if (!drawing) return;
  group(id).replaceChildren(...shapes);
  labels.set(id, texts);
  const made = [...labels.values()].flat().map(({ x, y, text, kind }) => {
    const label = drawn("text", { class: kind ?? "label", "data-x": x, "data-y": y });
    label.textContent = text;
    return label;
  });
  group("labels").replaceChildren(...made);
  moveDrawing();
};

export const veilDrawing = (on) => {
  if (drawing) drawing.style.visibility = on ? "hidden" : "";
};
