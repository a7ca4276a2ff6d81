// The pictures over the slide, one on the other, each with its opacity and its legend.

import { $, api, brief, chip, complain, element, number, title } from "../dom.js";
import { stage } from "./frames.js";
import { draw, path } from "./overlay.js";
import { keptInAddress, lookQuery, state, writeAddress } from "../state.js";
import { pyramid } from "./tiles.js";

const layerSources = () => {
  const facts = state.facts;
  const grid = facts.grid.shape;
  const cells = (k, row, col) => {
    const query = lookQuery();
    if (state.filled) query.set("filled", "1");
    return `${api(facts.name)}/cells/${k}/${row}/${col}.png?${query}`;
  };
  const image = (name) => () => ({ type: "image", url: api(facts.name, name) });
  return [
    { id: "cells", title: "Cells", on: true, opacity: 1, source: () => pyramid(facts, grid, facts.finest, 24, cells) },
    { id: "density", title: "Density", on: false, opacity: 0.8, source: image("/density.png") },
    { id: "tissue", title: "Tissue", on: false, opacity: 0.9, colour: facts.tissue_colour, source: image("/tissue.png") },
    { id: "regions", title: "Regions", on: false, opacity: 1, source: null },
    ...facts.maps.map((map, index) => ({
      id: `map-${map.name}`,
      title: `Map: ${title(map.name)}`,
      gradient: `linear-gradient(to right, transparent, ${map.colour})`,
      ends: ["0", "1"],
      on: false,
      opacity: 0.8,
      source: () => pyramid(facts, grid, 0, facts.grid.levels - 1, (k, row, col) => `${api(facts.name)}/maps/${index}/${k}/${row}/${col}.png`),
    })),
  ];
};

// Above the slide in the order of the list, the first one on top.
const depth = (layer) => 1 + state.layers.filter((other) => other.item && state.layers.indexOf(other) > state.layers.indexOf(layer)).length;

const place = (layer, then = () => {}) => {
  const asked = (layer.asked = {});
  stage.viewer.addTiledImage({
    tileSource: layer.source(),
    x: 0,
    y: 0,
    width: 1, // both frames cover the same extent; grid px are not quite square in slide px
    opacity: layer.opacity,
    index: depth(layer),
    success: ({ item }) => {
      if (!layer.on || layer.asked !== asked) stage.viewer.world.removeItem(item);
      else then(item);
    },
    error: (event) => complain(new Error(event.message)),
  });
};

const remove = (layer) => {
  for (const item of [layer.item, layer.next]) if (item) stage.viewer.world.removeItem(item);
  layer.item = layer.next = layer.asked = null;
};

export const show = (layer, on) => {
  layer.on = on;
  if (layer.id === "regions") drawRegions();
  else if (!on) remove(layer);
  else if (!layer.item) place(layer, (item) => (layer.item = item));
  if (layer.id === "cells") tellShades(layer);
  else if (layer.legend) layer.legend.hidden = !on;
  if (layer.id === "density" && on) nameDensity();
  writeAddress();
};

// The shades of a measurement, while cells have them.
const tellShades = (layer) => {
  layer.legend.hidden = !(layer.on && state.paint && state.measure);
  if (layer.legend.hidden) return;
  const { name, low, high } = state.measure;
  layer.legend.title = title(name);
  layer.legend.querySelector("figcaption").replaceChildren(...[brief(low), title(name), brief(high)].map((text) => element("span", {}, text)));
};

// The new tiles lie over the old ones until all of them are there, so that nothing flickers.
export const redrawCells = () => {
  const layer = state.layers.find((other) => other.id === "cells");
  writeAddress();
  tellShades(layer);
  if (!layer.on) return;
  if (layer.next) stage.viewer.world.removeItem(layer.next);
  layer.next = null;
  place(layer, (item) => {
    layer.next = item;
    const swap = () => {
      if (layer.next !== item) return;
      if (layer.item) stage.viewer.world.removeItem(layer.item);
      layer.item = item;
      layer.next = null;
    };
    if (!layer.item || item.getFullyLoaded()) swap();
    else item.addHandler("fully-loaded-change", (event) => event.fullyLoaded && swap());
  });
};

const setOpacity = (layer, value) => {
  layer.opacity = value;
  for (const item of [layer.item, layer.next]) item?.setOpacity(value);
  if (layer.id === "regions") drawRegions();
  writeAddress();
};

const nameDensity = async () => {
  const answer = await fetch(api(state.facts.name, "/density.png"));
  $("deepest").textContent = `≥ ${number(Number(answer.headers.get("X-Deepest")))} cells/mm²`;
};

const ramp = (gradient, low = "", high = "", ids = {}) => {
  const bar = element("i");
  bar.style.background = gradient;
  return element("figure", { className: "ramp", ...ids }, bar, element("figcaption", {}, low, high));
};

const legend = (layer) => {
  if (layer.id === "cells") return ramp($("shades").content);
  if (layer.id === "density") return ramp($("gradient").content, element("span", {}, "0"), element("span", { id: "deepest" }), { id: "ramp" });
  if (layer.gradient) return ramp(layer.gradient, ...layer.ends.map((end) => element("span", {}, end)));
  if (layer.id === "regions") return element("p", { className: "keys" }, chip("#3b4754"), "done", chip("#d55e00"), "failed");
  return null;
};

const listed = (layer, index) => {
  const box = element("input", { type: "checkbox", checked: layer.on, onchange: () => show(layer, box.checked) });
  const range = element("input", {
    type: "range", min: 0.1, max: 1, step: 0.05, value: layer.opacity, title: "Opacity",
    ariaLabel: `Opacity of ${layer.title}`, oninput: () => setOpacity(layer, Number(range.value)),
  });
  layer.box = box;
  const label = element("label", { title: index < 9 ? `key ${index + 1}` : "" }, box);
  if (layer.colour) label.append(chip(layer.colour));
  label.append(layer.title);
  layer.legend = legend(layer);
  if (layer.legend) layer.legend.hidden = layer.id === "cells" || !layer.on;
  return element("li", {}, label, range, ...(layer.legend ? [layer.legend] : []));
};

export const toggle = (layer) => {
  layer.box.checked = !layer.on;
  show(layer, !layer.on);
};

export const veilLayers = (on) => {
  for (const layer of state.layers) for (const item of [layer.item, layer.next]) item?.setOpacity(on ? 0 : layer.opacity);
};

export const drawRegions = () => {
  const layer = state.layers.find((other) => other.id === "regions");
  const [sy, sx] = state.facts.grid.scale;
  const box = ([y, x, h, w]) => `M${x * sx} ${y * sy}h${w * sx}v${h * sy}h${-w * sx}Z`;
  const failed = state.facts.failed.map((region) => region.box);
  const shapes = layer.on ? [path("region", state.facts.regions.map(box).join("")), path("failed", failed.map(box).join(""))] : [];
  for (const shape of shapes) shape.style.opacity = layer.opacity;
  draw("regions", shapes);
};

export const putLayersOn = () => {
  for (const layer of state.layers) if (layer.on) show(layer, true);
};

keptInAddress(
  (address) => {
    address.set("layers", state.layers.filter((layer) => layer.on).map((layer) => `${layer.id}:${layer.opacity}`).join(","));
    if (state.filled) address.set("filled", "1");
  },
  (address) => {
    state.filled = address.get("filled") === "1";
    $("filled").checked = state.filled;
    const before = state.layers;
    state.layers = layerSources();
    const given = address.get("layers");
    const wanted = given === null ? null : Object.fromEntries(given.split(",").filter(Boolean).map((text) => text.split(/:(?=[^:]*$)/)));
    for (const layer of state.layers) {
      const old = before.find((other) => other.id === layer.id);
      if (old) Object.assign(layer, { on: old.on, opacity: old.opacity });
      if (wanted) Object.assign(layer, { on: layer.id in wanted, opacity: Number(wanted[layer.id]) || layer.opacity });
    }
    $("layers").replaceChildren(...state.layers.map(listed));
  },
);

export const startLayers = () => {
  $("filled").onchange = () => {
    state.filled = $("filled").checked;
    redrawCells();
  };
};
