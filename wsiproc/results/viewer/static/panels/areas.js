// Areas: drawn or taken, with what lies in them; kept next to the results, or in the address where nothing may be written.

import { $, api, brief, button, complain, download, element, get, mayWrite, number, send, title, toast } from "../dom.js";
import { countAreas } from "./cells.js";
import { goTo, stage } from "../image/frames.js";
import { draw, outline, path } from "../image/overlay.js";
import { onCuts } from "./positivity.js";
import { keptInAddress, state, writeAddress } from "../state.js";

// What can be said of an area, so that `wsiproc import` takes it.
const USES = {
  reviewed: { glyph: "✓", text: "Reviewed", means: "Every cell in it was checked: a model can learn from all of it" },
  excluded: { glyph: "⊘", text: "Excluded", means: "Cells in it are left out, and teach nothing" },
};

let areas = []; // { name, geometry, use, told, suggested? }
let suggested = null; // areas that need no drawing; found when they are first wanted
let fileState = "";

const points = (geometry) => (geometry.type === "Polygon" ? [geometry.coordinates] : geometry.coordinates).flat(2);

const bounds = (geometry) => {
  const corners = points(geometry);
  const [xs, ys] = [0, 1].map((axis) => corners.map((corner) => corner[axis]));
  return { x0: Math.min(...xs), y0: Math.min(...ys), x1: Math.max(...xs), y1: Math.max(...ys) };
};

export const size = (mm2) => (mm2 >= 0.01 ? `${brief(mm2)} mm²` : `${brief(mm2 * 1e6)} µm²`);

const percent = (share) => (share === null ? null : `${number(100 * share, 1)} %`);

// --- measured ---

const measured = async (some) => {
  if (!some.length) return;
  const told = await send("POST", api(state.facts.name, "/measure"), { geometries: some.map((area) => area.geometry), cuts: (state.cuts ?? []).join(",") });
  some.forEach((area, index) => (area.told = told[index]));
};

const rows = (told) => [
  ["Area", size(told.area_mm2)],
  ["Cells", number(told.cells)],
  ["Density", told.cells_per_mm2 === null ? "–" : `${number(told.cells_per_mm2)} cells/mm²`],
  ...(told.positive_index === null ? [] : [["Positive", percent(told.positive_index)]]),
  ...(told.h_score === null ? [] : [["H-score", number(Math.round(told.h_score))]]),
  ...Object.entries(told.classes).filter(([, count]) => count || Object.keys(told.classes).length < 5).map(([kind, count]) => [kind, number(count)]),
];

const table = (pairs) => element("table", {}, element("tbody", {}, ...pairs.map(([key, value]) => element("tr", {}, element("th", { scope: "row" }, key), element("td", {}, value)))));

// --- listed and drawn ---

const goToArea = (area) => {
  const { x0, y0, x1, y1 } = bounds(area.geometry);
  const view = stage.viewer.viewport.getContainerSize();
  const um = Math.max((x1 - x0) / view.x, (y1 - y0) / view.y) * state.facts.mpp * 1.25;
  goTo((x0 + x1) / 2, (y0 + y1) / 2, um || 0.25);
};

const withGlyph = (area) => (area.use ? `${USES[area.use].glyph} ${area.name}` : area.name);

const uses = (area) => {
  if (!mayWrite) return area.use ? [element("p", { className: "soft" }, `${USES[area.use].glyph} ${USES[area.use].text}`)] : [];
  const marks = Object.entries(USES).map(([use, { glyph, text, means }]) =>
    button(`${glyph} ${text}`, means, () => setUse(area, area.use === use ? null : use), { ariaLabel: `${text}: ${area.name}`, ariaPressed: String(area.use === use) }));
  return [element("div", { className: "verdicts" }, ...marks)];
};

const listed = (area) => {
  const name = element("input", { type: "text", value: area.name, ariaLabel: "Name of the area", maxLength: 80, onchange: () => change(area, { name: name.value }) });
  const medians = element("details", {}, element("summary", {}, "Medians"), table(Object.entries(area.told?.medians ?? {}).map(([key, value]) => [title(key), brief(value)])));
  const shown = area.told ? [table(rows(area.told)), medians] : [];
  return element("li", { className: area.use ?? "" }, element("div", { className: "row" }, name, button("◎", `Show ${area.name}`, () => goToArea(area)), button("×", `Delete ${area.name}`, () => remove(area))), ...uses(area), ...shown);
};

const drawAreas = () => {
  const labels = areas.map((area) => {
    const { x0, x1, y0 } = bounds(area.geometry);
    const density = area.told ? ` · ${number(area.told.cells)} cells` : "";
    return { x: (x0 + x1) / 2, y: y0, text: `${withGlyph(area)}${area.use ? ` · ${area.use}` : ""}${density}`, kind: `label area-name ${area.use ?? ""}` };
  });
  draw("areas", areas.flatMap((area) => [path("area halo", outline(area.geometry)), path(`area ${area.use ?? ""}`, outline(area.geometry))]), labels);
};

// The list is made anew; who is in it with the keyboard stays where they were.
const list = () => {
  const pressable = () => [...$("areas").querySelectorAll("input, button, summary")];
  const focused = pressable().indexOf(document.activeElement);
  $("areas").replaceChildren(...areas.map(listed));
  pressable()[focused]?.focus();
  $("areas-csv").disabled = !areas.length;
  const taken = new Set(areas.map((area) => area.suggested));
  const left = (suggested ?? []).filter((area) => !taken.has(area.name));
  $("take").hidden = !left.length;
  $("take").replaceChildren(element("option", { value: "", textContent: "Take…" }), ...left.map((area) => element("option", { value: area.name, textContent: area.name })));
  drawAreas();
};

// --- changed ---

const save = async () => {
  if (!mayWrite) return;
  const told = await send("PUT", api(state.facts.name, "/areas"), { state: fileState, areas: areas.map(({ name, geometry, use }) => ({ name, geometry, use })) });
  fileState = told.state;
  countAreas(told.areas.filter(({ use }) => use).length);
};

let saving = Promise.resolve();
const changed = (undo = () => {}) => {
  list();
  writeAddress();
  saving = saving.then(save).catch((error) => {
    undo();
    list();
    complain(error);
  });
  return saving;
};

// What the server refuses is taken back.
const change = (area, values) => {
  const before = { name: area.name, use: area.use };
  Object.assign(area, values);
  return changed(() => Object.assign(area, before));
};

const setUse = async (area, use) => {
  await change(area, { use });
  if (area.use === use) toast(use ? `${area.name} is ${use}` : `${area.name}: mark taken back`);
};

const remove = (area) => {
  areas = areas.filter((other) => other !== area);
  changed();
};

const freeName = () => {
  const names = new Set(areas.map((area) => area.name));
  let place = areas.length + 1;
  while (names.has(`Area ${place}`)) place += 1;
  return `Area ${place}`;
};

export const addArea = async (geometry, name = freeName(), from = undefined) => {
  const area = { name, geometry, use: null, suggested: from };
  try {
    await measured([area]);
  } catch (error) {
    complain(error);
    return;
  }
  areas.push(area);
  $("areas-panel").open = true;
  toast(`${name}: ${size(area.told.area_mm2)}, ${number(area.told.cells)} cells`);
  changed();
};

// --- exported ---

const quoted = (value) => (/[",\n]/.test(String(value)) ? `"${String(value).replaceAll('"', '""')}"` : String(value));

const table_of = () => {
  const kinds = [...new Set(areas.flatMap((area) => Object.keys(area.told.classes)))];
  const head = ["slide", "area", "use", "area_mm2", "cells", "cells_per_mm2", "positive_index", "h_score", ...kinds.map((kind) => `cells_${kind}`), ...state.facts.measurements.map((key) => `median_${key}`)];
  const lines = areas.map(({ name, use, told }) => [
    state.facts.name, name, use ?? "", told.area_mm2, told.cells, told.cells_per_mm2 ?? "", told.positive_index ?? "", told.h_score ?? "",
    ...kinds.map((kind) => told.classes[kind] ?? 0), ...state.facts.measurements.map((key) => told.medians[key] ?? ""),
  ]);
  return [head, ...lines].map((line) => line.map(quoted).join(",")).join("\r\n") + "\r\n";
};

const suggest = async () => {
  suggested ??= await get(api(state.facts.name, "/suggested"));
};

export const startAreas = () => {
  $("areas-panel").ontoggle = async () => {
    if (!$("areas-panel").open || suggested) return;
    try {
      await suggest();
      list();
    } catch (error) {
      complain(error);
    }
  };
  $("areas-csv").onclick = () => download(new Blob([table_of()], { type: "text/csv" }), `${state.facts.name}-areas.csv`);
  $("take").onchange = () => {
    const area = suggested.find((other) => other.name === $("take").value);
    if (area) addArea(area.geometry, area.name, area.name);
  };
  $("areas-kept").textContent = mayWrite ? "Kept in areas.geojson next to the results; reviewed and excluded ones in corrections.geojson." : "Kept in the address only; start wsiproc view with --write to keep them next to the results.";
  onCuts(async () => {
    try {
      await measured(areas);
      list();
    } catch (error) {
      complain(error);
    }
  });
};

// Where nothing is written the address has them: name;x,y,x,y… of each ring, or ~name of one that was taken.
const written = (area) => (area.suggested ? `~${area.name}` : [area.name.replace(/[;|~]/g, " "), ...area.geometry.coordinates.map((ring) => ring.map((corner) => corner.map(Math.round)).join(","))].join(";"));

const read = (text) => {
  if (text.startsWith("~")) {
    const area = suggested.find((other) => other.name === text.slice(1));
    return area && { ...area, suggested: area.name };
  }
  const [name, ...rings] = text.split(";");
  const coordinates = rings.map((ring) => ring.split(",").map(Number)).map((flat) => Array.from({ length: flat.length >> 1 }, (_, index) => flat.slice(2 * index, 2 * index + 2)));
  return { name, geometry: { type: "Polygon", coordinates }, use: null };
};

export const openAreas = async (address) => {
  try {
    const told = await get(api(state.facts.name, "/areas"));
    if ($("areas-panel").open || (address.get("areas") ?? "").includes("~")) await suggest();
    fileState = told.state;
    areas = told.areas;
    const known = new Set(areas.map((area) => area.name));
    areas.push(...(address.get("areas") ?? "").split("|").filter(Boolean).map(read).filter((area) => area && !known.has(area.name)));
    for (const area of areas) area.saved = known.has(area.name);
    await measured(areas);
  } catch (error) {
    areas = areas.filter((area) => area.told);
    toast(error.message);
  }
  if (areas.length) $("areas-panel").open = true;
  list();
};

keptInAddress(
  (address) => {
    const some = areas.filter((area) => !mayWrite && !area.saved);
    if (some.length) address.set("areas", some.map(written).join("|"));
  },
  () => {
    areas = [];
    suggested = null;
    list();
  },
);

