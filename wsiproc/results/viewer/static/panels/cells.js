// Cells: the one under the pointer, the chosen one, one after the other, a gallery of them, and what is said of them.

import { $, api, brief, button, chip, complain, copy, element, get, mayWrite, number, say, send, title, toast } from "../dom.js";
import { classColour, onClasses } from "./classes.js";
import { fromScreen, goTo, umPerPixel } from "../image/frames.js";
import { draw, holds, path, ring } from "../image/overlay.js";
import { keptInAddress, lookQuery, state, writeAddress } from "../state.js";

const IN_GALLERY = 24;
const CLOSE_UM = 0.3; // µm a pixel at which one cell after the other is looked at
const GLYPHS = { right: "✓", wrong: "✕", class: "↻", outline: "✎", new: "✎" };

let walking = null; // { rank, of } of the chosen cell in the order
const NOTHING = { cells: {}, areas: 0, command: "" };
let corrections = NOTHING;
let first = 0; // rank of the first cell in the gallery
let last = 0; // id of the cell that was found and chosen last

// --- the chosen cell ---

const verdictOf = (cell) => corrections.cells[cell.id]?.verdict ?? null;

const isNew = (cell) => verdictOf(cell) === "new";

const name = (cell) => (isNew(cell) ? `New cell (${cell.class})` : `${cell.class} ${number(cell.id)}`);

const outlineOf = (cell) => corrections.cells[cell.id]?.outline ?? cell.outline;

const spoken = (cell) => {
  if (isNew(cell)) return name(cell);
  const by = $("order").value;
  const value = by === "score" ? cell.score : cell.measurements[by];
  const place = walking ? `, ${number(walking.rank + 1)} of ${number(walking.of)}` : "";
  const said = corrections.cells[cell.id];
  return `Cell ${name(cell)}, ${title(by)} ${brief(value)}${place}${said ? `, marked ${said.class ?? said.verdict}` : ""}`;
};

const verdicts = (cell) => {
  const said = corrections.cells[cell.id];
  const mark = (verdict, text, key) => button(text, `${text} (${key})`, () => correct(cell, said?.verdict === verdict ? null : verdict), { ariaPressed: String(said?.verdict === verdict) });
  const others = state.facts.classes.map((kind) => kind.name).filter((kind) => said?.outline || kind !== cell.class);
  const kinds = [...new Set([...others, ...(said?.class ? [said.class] : [])])];
  const none = said?.outline ? [] : [element("option", { value: "", textContent: "class…" })];
  const select = element("select", { id: "other-class", ariaLabel: "Of another class" }, ...none, ...kinds.map((kind) => element("option", { value: kind, textContent: kind })), element("option", { value: "+", textContent: "new class…" }));
  select.value = said?.class ?? "";
  select.onchange = () => {
    const kind = select.value === "+" ? window.prompt("Name of the class:")?.trim() : select.value;
    if (said?.outline && !kind) select.value = said.class;
    else correct(cell, kind ? "class" : null, kind || null);
  };
  const judged = isNew(cell) ? [button("Delete", "Delete (x)", () => correct(cell, null))] : [mark("right", "Right", "y"), mark("wrong", "Wrong", "x")];
  const undo = said?.verdict === "outline" ? [button("Take back the outline", "Take back the outline", () => correct(cell, null))] : [];
  return element("div", { className: "verdicts" }, ...judged, select, ...undo);
};

const describe = (cell) => {
  const found = isNew(cell) ? [] : [["Score", brief(cell.score)], ...Object.entries(cell.measurements).map(([key, value]) => [title(key), brief(value)])];
  const rows = [...found, ["Centre (px)", `${number(cell.centre[0])}, ${number(cell.centre[1])}`]];
  const table = element("table", {}, element("tbody", {}, ...rows.map(([key, value]) => element("tr", {}, element("th", { scope: "row" }, key), element("td", {}, value)))));
  $("cell").replaceChildren(
    button("×", "Close", () => pick(null), { className: "close" }),
    element("h2", {}, chip(cell.colour), name(cell)),
    ...(mayWrite ? [verdicts(cell)] : []),
    ...(corrections.cells[cell.id]?.outline ? [element("p", { className: "soft" }, "The outline is measured when it is imported.")] : []),
    table,
  );
};

const drawPicked = () => draw("picked", state.picked ? [path("picked", ring(outlineOf(state.picked))), path("picked", ring(outlineOf(state.picked)))] : []);

export const pick = (cell, place = null) => {
  state.picked = cell;
  walking = place;
  if (cell && !isNew(cell)) last = cell.id;
  $("cell").hidden = !cell;
  drawPicked();
  draw("hover", []);
  if (cell) {
    describe(cell);
    say(spoken(cell));
  }
  $("rank").textContent = place ? `${number(place.rank + 1)} of ${number(place.of)}` : "";
  for (const one of $("crops").children) one.setAttribute("aria-current", String(Number(one.dataset.id) === cell?.id));
  writeAddress();
};

// By id, also one that only a drawing knows; null where there is none.
const cellOf = async (id) => {
  const said = corrections.cells[id];
  if (said?.verdict === "new") return { id, class: said.class, colour: colourOf(said.class), outline: said.outline, centre: said.at };
  return Number(id) ? get(api(state.facts.name, `/cell?id=${Number(id)}`)) : null;
};

const cellAt = async (point) => {
  const drawn = Object.entries(corrections.cells).findLast(([, said]) => said.outline && holds(said.outline, point));
  return drawn ? cellOf(drawn[0]) : get(api(state.facts.name, `/cell?x=${point.x.toFixed(1)}&y=${point.y.toFixed(1)}`));
};

export const pickAt = async (pixel) => {
  try {
    const cell = await cellAt(fromScreen(pixel));
    pick(cell);
    if (!cell) say("No cell here");
  } catch (error) {
    complain(error);
  }
};

// --- under the pointer ---

const closeEnough = () => umPerPixel() < 2.5;

export const tellPlace = (point) => {
  const [h, w] = state.facts.shape;
  const inside = point.x >= 0 && point.y >= 0 && point.x < w && point.y < h;
  const mm = (px) => number((px * state.facts.mpp) / 1000, 2);
  $("place").textContent = inside ? `x ${number(point.x)}  y ${number(point.y)} px · ${mm(point.x)}, ${mm(point.y)} mm` : "";
  return inside;
};

let asking = false;
export const hover = async (pixel) => {
  const point = fromScreen(pixel);
  const inside = tellPlace(point);
  if (!closeEnough()) draw("hover", []);
  if (asking || !inside || !closeEnough()) return;
  asking = true;
  try {
    const slide = state.facts.name;
    const cell = await cellAt(point);
    if (state.facts.name === slide) draw("hover", cell && cell.id !== state.picked?.id ? [path("hover", ring(outlineOf(cell)))] : []);
  } catch (error) {
    complain(error);
  } finally {
    asking = false;
  }
};

// --- one after the other ---

const orderQuery = () => {
  const query = lookQuery();
  query.delete("grey");
  query.set("by", $("order").value);
  if ($("falling").value === "1") query.set("falling", "1");
  return query;
};

// `stop`: { id, centre } of a cell in the order.
const visit = async (stop, place) => {
  goTo(...stop.centre, umPerPixel() > 2 * CLOSE_UM ? CLOSE_UM : null);
  pick(await get(api(state.facts.name, `/cell?id=${stop.id}`)), place);
};

export const walk = async (by) => {
  const query = orderQuery();
  query.set("rank", by);
  query.set("id", state.picked ? last : 0);
  try {
    const told = await get(`${api(state.facts.name, "/walk")}?${query}`);
    if (told.of) await visit(told.cells[0], told);
    else toast("No cells are shown");
  } catch (error) {
    complain(error);
  }
};

// --- gallery ---

const crop = (cell, place) => {
  const value = brief(cell.value);
  const said = verdictOf(cell);
  const shown = button("", `${name(cell)}, ${title($("order").value)} ${value}${said ? `, marked ${said}` : ""}`, () => visit(cell, place).catch(complain), { ariaCurrent: String(cell.id === state.picked?.id) });
  shown.dataset.id = cell.id;
  shown.append(element("img", { src: api(state.facts.name, `/crop/${cell.id}.jpg?px=112&um=28`), loading: "lazy", alt: "", width: 84, height: 84 }), element("span", {}, said ? `${GLYPHS[said]} ${value}` : value));
  return shown;
};

export const showGallery = async (from = first) => {
  const query = orderQuery();
  query.set("rank", Math.max(0, from));
  query.set("count", IN_GALLERY);
  try {
    const told = await get(`${api(state.facts.name, "/walk")}?${query}`);
    first = told.rank;
    $("gallery").hidden = false;
    $("gallery-toggle").setAttribute("aria-expanded", "true");
    $("crops").replaceChildren(...told.cells.map((cell, index) => crop(cell, { rank: first + index, of: told.of })));
    $("crops").scrollLeft = 0;
    const last = Math.min(told.of, first + IN_GALLERY);
    $("gallery-place").textContent = told.of ? `${number(first + 1)}–${number(last)} of ${number(told.of)} by ${title($("order").value)}` : "no cell is shown";
    writeAddress();
  } catch (error) {
    complain(error);
  }
};

const hideGallery = () => {
  $("gallery").hidden = true;
  $("gallery-toggle").setAttribute("aria-expanded", "false");
  writeAddress();
};

export const toggleGallery = () => ($("gallery").hidden ? showGallery() : hideGallery());

// --- what is said of cells ---

const colourOf = (kind) => {
  const index = state.facts.classes.findIndex((other) => other.name === kind);
  return index < 0 ? "#0b3d5c" : classColour(index);
};

const drawMarks = () => {
  const told = Object.values(corrections.cells);
  const drawn = told.filter(({ outline }) => outline).flatMap(({ outline, class: kind }) => {
    const line = path("drawn", ring(outline));
    line.style.stroke = colourOf(kind);
    return [path("drawn halo", ring(outline)), line];
  });
  draw("drawn", drawn);
  draw("marks", [], told.map(({ verdict, at }) => ({ x: at[0], y: at[1], text: GLYPHS[verdict], kind: `mark ${verdict}` })));
  const counts = [[told.length, "cell"], [corrections.areas, "area"]].filter(([count]) => count);
  $("corrections").hidden = !counts.length;
  $("corrected").textContent = `${counts.map(([count, what]) => `${number(count)} ${what}${count === 1 ? "" : "s"}`).join(" and ")} marked. Import them with:`;
  $("import-text").textContent = corrections.command;
};

const put = async (body) => {
  corrections = await send("PUT", api(state.facts.name, "/corrections"), body);
  drawMarks();
};

const correct = async (cell, verdict, kind = null) => {
  const told = name(cell), wasNew = isNew(cell);
  try {
    await put({ id: cell.id, verdict, class: kind });
    if (state.picked?.id === cell.id) {
      if (wasNew) pick(await cellOf(cell.id));
      else {
        describe(cell);
        drawPicked();
      }
    }
    toast(verdict ? `${told} marked ${kind ?? verdict}` : wasNew ? "New cell deleted" : `${told}: mark taken back`);
    if (!$("gallery").hidden) for (const one of $("crops").children) if (Number(one.dataset.id) === cell.id) one.querySelector("span").textContent = verdict ? GLYPHS[verdictOf(cell)] : "";
  } catch (error) {
    complain(error);
  }
};

// What to do where a new cell and one that was found would both count.
const above = async ({ centre: [x, y] }) => {
  const found = await get(api(state.facts.name, `/cell?x=${x}&y=${y}`));
  return found && !["wrong", "outline"].includes(verdictOf(found)) ? ` over ${name(found)}: mark that one as wrong, or delete the new one` : "";
};

// The outline of the chosen cell, or of a new one where none is chosen or the chosen one lies elsewhere.
export const drawCell = async (geometry) => {
  try {
    await put({ id: state.picked?.id ?? null, verdict: "outline", geometry });
    const cell = await cellOf(corrections.drawn);
    if (state.picked?.id === cell.id) pick(cell, walking);
    toast(isNew(cell) ? `${name(cell)} drawn${await above(cell)}` : `${name(cell)} has another outline`);
  } catch (error) {
    complain(error);
  }
};

export const mark = (verdict) => {
  if (!state.picked) toast("Choose a cell first");
  else if (!mayWrite) toast("Nothing is written: start wsiproc view with --write");
  else if (isNew(state.picked) && verdict === "right") toast("A cell that was drawn counts as right");
  else if (isNew(state.picked)) correct(state.picked, null);
  else correct(state.picked, verdictOf(state.picked) === verdict ? null : verdict);
};

export const countAreas = (areas) => {
  corrections = { ...corrections, areas };
  drawMarks();
};

const loadCorrections = async () => {
  corrections = NOTHING;
  try {
    corrections = await get(api(state.facts.name, "/corrections"));
  } catch (error) {
    toast(error.message);
  }
};

export const startCells = () => {
  onClasses(() => drawMarks());
  $("previous").onclick = () => walk(-1);
  $("next").onclick = () => walk(1);
  $("gallery-toggle").onclick = toggleGallery;
  $("gallery-close").onclick = hideGallery;
  $("gallery-back").onclick = () => showGallery(first - IN_GALLERY);
  $("gallery-on").onclick = () => showGallery(first + IN_GALLERY);
  const again = () => {
    first = 0;
    if (!$("gallery").hidden) showGallery();
    writeAddress();
  };
  $("order").onchange = again;
  $("falling").onchange = again;
  $("corrections").querySelector(".command").append(button("Copy", "Copy the command", () => copy(corrections.command, "Command")));
};

// After the slide is there: what stands over it.
export const openCells = async (address) => {
  await loadCorrections();
  drawMarks();
  if (address.has("cell")) pick(await cellOf(address.get("cell")));
  if (address.has("gallery")) await showGallery(Number(address.get("gallery")) || 0);
};

keptInAddress(
  (address) => {
    if (state.picked) address.set("cell", state.picked.id);
    if ($("order").value !== "score") address.set("order", $("order").value);
    if ($("falling").value === "1") address.set("falling", "1");
    if (!$("gallery").hidden) address.set("gallery", first);
  },
  (address) => {
    state.picked = walking = null;
    last = 0;
    $("cell").hidden = true;
    $("rank").textContent = "";
    $("gallery").hidden = true;
    $("order").replaceChildren(...state.facts.measurements.map((key) => element("option", { value: key, textContent: title(key) })));
    const by = address.get("order");
    $("order").value = state.facts.measurements.includes(by) ? by : "score";
    $("falling").value = address.get("falling") === "1" ? "1" : "0";
  },
);

