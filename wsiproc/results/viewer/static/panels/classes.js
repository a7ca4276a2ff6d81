// Classes: on or off, and the colour that the user wants them to have.

import { $, element, number } from "../dom.js";
import { redrawCells } from "../image/layers.js";
import { keptInAddress, state } from "../state.js";

const changed = new Set(); // what else depends on which classes are shown
export const onClasses = (then) => changed.add(then);

export const classColour = (index) => state.colours.get(index) ?? state.facts.classes[index].colour;

const redraw = () => {
  redrawCells();
  for (const then of changed) then();
};

const listed = (kind, index) => {
  const box = element("input", {
    type: "checkbox", checked: !state.hidden.has(index),
    onchange: () => {
      if (box.checked) state.hidden.delete(index);
      else state.hidden.add(index);
      redraw();
    },
  });
  const colour = element("input", {
    type: "color", value: classColour(index), title: `Colour of ${kind.name}`, ariaLabel: `Colour of ${kind.name}`,
    onchange: () => {
      if (colour.value === kind.colour) state.colours.delete(index);
      else state.colours.set(index, colour.value);
      redraw();
    },
  });
  return element("li", {}, element("label", {}, box, kind.name), element("span", {}, number(kind.cells)), colour);
};

export const listClasses = () => $("classes").replaceChildren(...state.facts.classes.map(listed));

keptInAddress(
  (address) => {
    if (state.hidden.size) address.set("hide", [...state.hidden].join(","));
    if (state.colours.size) address.set("colours", [...state.colours].map(([index, colour]) => `${index}:${colour.slice(1)}`).join(","));
  },
  (address) => {
    state.hidden = new Set((address.get("hide") ?? "").split(",").filter(Boolean).map(Number));
    const pairs = (address.get("colours") ?? "").split(",").filter((text) => /^\d+:[0-9a-f]{6}$/.test(text));
    state.colours = new Map(pairs.map((text) => text.split(":")).map(([index, colour]) => [Number(index), `#${colour}`]));
    listClasses();
  },
);
