// A histogram over a slider of one or more thumbs, each also a field for an exact number.

import { brief, drawn, element } from "../dom.js";

const W = 252, H = 56;

export const bars = (counts, colourAt) => {
  const most = Math.max(1, ...counts);
  const width = W / counts.length;
  const made = drawn("svg", { class: "bars", viewBox: `0 0 ${W} ${H}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  counts.forEach((count, index) => {
    // Roots, so that rare values are seen beside common ones.
    const height = count ? Math.max(1.5, Math.sqrt(count / most) * (H - 2)) : 0;
    made.append(drawn("rect", { x: index * width, y: H - height, width: width - 0.6, height, fill: colourAt(index) }));
  });
  return made;
};

// `thumbs`: [{ label, value }]; a value of null is at `low` or `high`, as its `open` says. `moved(values)` is told each step.
export const sliders = (low, high, thumbs, moved) => {
  const step = (high - low) / 400;
  const values = thumbs.map((thumb) => thumb.value);
  const at = (index) => values[index] ?? (thumbs[index].open === "high" ? high : low);
  const ranges = [], fields = [];
  const write = () => {
    ranges.forEach((range, index) => (range.value = at(index)));
    fields.forEach((field, index) => (field.value = Number(at(index).toPrecision(4))));
  };
  const set = (index, text) => {
    const least = index ? at(index - 1) : -Infinity, most = index + 1 < values.length ? at(index + 1) : Infinity;
    const value = Math.min(most, Math.max(least, Number(text)));
    const end = { low: value <= low + step / 2, high: value >= high - step / 2 }[thumbs[index].open];
    values[index] = end ? null : Number(value.toPrecision(4));
    write();
    moved([...values]);
  };
  thumbs.forEach(({ label }, index) => {
    ranges.push(element("input", { type: "range", min: low, max: high, step, ariaLabel: label, oninput: () => set(index, ranges[index].value) }));
    fields.push(element("input", { type: "number", step: "any", ariaLabel: `${label}, number`, onchange: () => fields[index].value !== "" && set(index, fields[index].value) }));
  });
  write();
  return { track: element("div", { className: "thumbs" }, ...ranges), fields: element("div", { className: "fields" }, ...fields) };
};

export const axis = (low, high) => element("div", { className: "axis" }, element("span", {}, brief(low)), element("span", {}, brief(high)));
