// A measurement: its histogram, cells coloured by it, and a range that is kept.

import { $, api, element, get, latest, number, soon, title } from "../dom.js";
import { onClasses } from "./classes.js";
import { axis, bars, sliders } from "./histogram.js";
import { redrawCells } from "../image/layers.js";
import { keptInAddress, lookQuery, state } from "../state.js";

const shades = () => $("shades").content.match(/#[0-9a-f]{6}/g);

const colourAt = (share) => {
  const colours = shades();
  const place = share * (colours.length - 1);
  return colours[Math.round(place)];
};

const within = (value) => (state.keep[0] === null || value >= state.keep[0]) && (state.keep[1] === null || value <= state.keep[1]);

const tellKept = (told) => {
  const all = told.kept === told.cells;
  const without = told.unmeasured ? `; ${number(told.unmeasured)} have no value` : "";
  $("kept").textContent = (all ? `all ${number(told.cells)} cells` : `${number(told.kept)} of ${number(told.cells)} cells in the range (${number((100 * told.kept) / Math.max(1, told.cells), 1)} %)`) + without;
};

const drawBars = () => {
  const { low, high, counts } = state.measure;
  const bin = (high - low) / counts.length;
  const colour = (index) => {
    if (!within(low + (index + 0.5) * bin)) return "var(--line)";
    return state.paint ? colourAt(index / (counts.length - 1)) : "var(--accent)";
  };
  $("histogram").replaceChildren(bars(counts, colour));
};

const askKept = latest(() => get(`${api(state.facts.name, "/spread")}?${lookQuery()}`), (told) => {
  state.measure.counts = told.counts;
  tellKept(told);
  drawBars();
});

const redraw = soon(120, redrawCells);

const makeSliders = () => {
  const { low, high } = state.measure;
  const made = sliders(low, high, [{ label: "From", value: state.keep[0], open: "low" }, { label: "To", value: state.keep[1], open: "high" }], (values) => {
    state.keep = values;
    drawBars();
    askKept();
    redraw();
  });
  $("range").replaceChildren(made.track, axis(low, high), made.fields);
};

const choose = async (name, keep = [null, null]) => {
  state.keep = keep;
  state.measure = null;
  $("measured").hidden = !name;
  $("measure").value = name;
  if (name) {
    const told = await get(`${api(state.facts.name, "/spread")}?measure=${encodeURIComponent(name)}`);
    state.measure = { name, ...told };
    tellKept(told);
    drawBars();
    makeSliders();
    askKept();
  }
};

const fill = () => {
  const options = state.facts.measurements.map((name) => element("option", { value: name, textContent: title(name) }));
  $("measure").replaceChildren(element("option", { value: "", textContent: "none" }), ...options);
};

export const startMeasure = () => {
  $("measure").onchange = async () => {
    const first = !state.measure;
    if (first) state.paint = $("paint").checked = true;
    await choose($("measure").value);
    redrawCells();
  };
  $("paint").onchange = () => {
    state.paint = $("paint").checked;
    drawBars();
    redrawCells();
  };
  $("outside").onchange = () => {
    state.grey = $("outside").value === "grey";
    redrawCells();
  };
  onClasses(() => state.measure && askKept());
};

keptInAddress(
  (address) => {
    if (!state.measure) return;
    address.set("measure", state.measure.name);
    if (state.paint) address.set("paint", "1");
    if (state.keep.some((end) => end !== null)) address.set("keep", state.keep.map((end) => end ?? "").join(","));
    if (!state.grey) address.set("outside", "hidden");
  },
  async (address) => {
    fill();
    const name = address.get("measure") ?? "";
    state.paint = $("paint").checked = address.get("paint") === "1";
    state.grey = address.get("outside") !== "hidden";
    $("outside").value = state.grey ? "grey" : "hidden";
    const ends = (address.get("keep") ?? ",").split(",").map((end) => (end === "" ? null : Number(end)));
    await choose(state.facts.measurements.includes(name) ? name : "", ends);
    $("measure").closest("details").open ||= Boolean(state.measure);
  },
);
