// Positivity: thresholds of DAB that move, and what they make of the slide, at once.

import { $, api, button, chip, copy, element, get, latest, number, soon } from "../dom.js";
import { axis, bars, sliders } from "./histogram.js";
import { redrawCells } from "../image/layers.js";
import { keptInAddress, state } from "../state.js";

let run = null; // the run's own thresholds and the histogram of DAB
const changed = new Set();
export const onCuts = (then) => changed.add(then);

const tell = (told) => {
  $("index").textContent = told.index === null ? "–" : `${number(100 * told.index, 1)} %`;
  $("h-score").textContent = told.h_score === null ? "" : `H-score ${number(told.h_score)}`;
  const strengths = Object.entries(state.facts.strengths).filter(([name]) => name in told);
  const colourOf = (name) => state.facts.classes.find((kind) => kind.name === name)?.colour ?? state.facts.positive_colour;
  const rows = [
    ["Negative", colourOf("Negative"), told.negative],
    ...(strengths.length ? strengths.map(([name, colour]) => [name, colour, told[name]]) : [["Positive", colourOf("Positive"), told.positive]]),
  ];
  const cells = Math.max(1, told.negative + told.positive);
  $("strengths").replaceChildren(...rows.map(([name, colour, count]) =>
    element("li", {}, element("span", { className: "grow" }, chip(colour), name), element("span", {}, number(count)), element("span", { className: "share" }, `${number((100 * count) / cells, 1)} %`))));
};

const ask = latest(() => get(`${api(state.facts.name, "/positivity")}?cuts=${state.cuts ?? ""}`), tell);
const redraw = soon(100, () => {
  redrawCells();
  for (const then of changed) then();
});

const drawBars = () => {
  const { low, high, counts } = run.spread;
  const cuts = state.cuts ?? run.cuts;
  const colours = Object.values(state.facts.strengths);
  const colour = (index) => {
    const above = cuts.filter((cut) => low + ((index + 0.5) * (high - low)) / counts.length > cut).length;
    if (!above) return "var(--line)";
    return cuts.length === 1 ? "var(--accent)" : colours[above - 1];
  };
  $("dab").replaceChildren(bars(counts, colour));
};

const command = () => `wsiproc reclassify ${state.facts.folder} --positive-dab ${(state.cuts ?? run.cuts).join(" ")}`;

const tellCommand = () => {
  $("reclassify").hidden = !state.cuts;
  $("reclassify-text").textContent = command();
};

const makeSliders = () => {
  const names = (state.cuts ?? run.cuts).length === 3 ? ["Weak from", "Moderate from", "Strong from"] : ["Positive from"];
  const cuts = state.cuts ?? run.cuts;
  const { low, high } = run.spread;
  const ends = [Math.min(low, ...cuts), Math.max(high, ...cuts)];
  const made = sliders(...ends, names.map((label, index) => ({ label: `${label}, DAB OD`, value: cuts[index] })), (values) => {
    // They must rise, or nothing would lie between two of them.
    state.cuts = values.map((cut, index) => Number((Math.max(cut, 0.001) + 0.0001 * index * (cut === values[index - 1])).toPrecision(6)));
    drawBars();
    tellCommand();
    ask();
    redraw();
  });
  $("cuts").replaceChildren(made.track, axis(...ends), made.fields);
};

const update = () => {
  $("three").checked = (state.cuts ?? run.cuts).length === 3;
  drawBars();
  makeSliders();
  tellCommand();
  ask();
};

const begin = async () => {
  if (run) return;
  run = await get(api(state.facts.name, "/positivity"));
  const none = state.facts.has_index ? "" : " No index: where DAB lies here is no compartment to score, unless wsiproc reclassify --compartment names one.";
  $("scored").textContent = `A cell is positive where the mean optical density of DAB in ${run.where} is above the threshold.${none}`;
  update();
};

// Moderate and strong begin where the rest of the positive cells falls into thirds of the scale.
const three = () => {
  const [first] = state.cuts ?? run.cuts;
  const room = Math.max(run.spread.high - first, 0.1);
  state.cuts = [first, first + room / 3, first + (2 * room) / 3].map((cut) => Number(cut.toFixed(3)));
};

const set = (cuts) => {
  state.cuts = cuts;
  update();
  redraw();
};

export const startPositivity = () => {
  $("positivity").ontoggle = () => $("positivity").open && begin();
  $("three").onchange = () => {
    if ($("three").checked) three();
    else state.cuts = (state.cuts ?? run.cuts).slice(0, 1);
    set(state.cuts);
  };
  $("usual").onclick = () => set(null);
  $("reclassify").append(button("Copy", "Copy the command", () => copy(command(), "Command")));
};

keptInAddress(
  (address) => state.cuts && address.set("cuts", state.cuts.join(",")),
  async (address) => {
    run = null;
    const cuts = (address.get("cuts") ?? "").split(",").filter(Boolean).map(Number);
    state.cuts = state.facts.has_dab && [1, 3].includes(cuts.length) && cuts.every(Number.isFinite) ? cuts : null;
    $("positivity").hidden = !state.facts.has_dab;
    if (state.cuts) $("positivity").open = true;
    if (state.facts.has_dab && $("positivity").open) await begin();
  },
);
