// The view as a PNG: the picture as it is on the screen, with scale bar and legend.

import { $, download, title } from "../dom.js";
import { classColour } from "../panels/classes.js";
import { stage } from "./frames.js";
import { theDrawing } from "./overlay.js";
import { state } from "../state.js";

const asImage = (source) =>
  new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = () => reject(new Error("the drawing over the slide could not be made a picture"));
    image.src = source;
  });

// Styles of the sheet do not go along with a copy: each shape takes those that it has.
const drawing = async (width, height) => {
  const from = theDrawing();
  const made = from.cloneNode(true);
  made.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  made.setAttribute("width", width);
  made.setAttribute("height", height);
  const there = from.querySelectorAll("path, text"), copies = made.querySelectorAll("path, text");
  there.forEach((shape, index) => {
    const style = getComputedStyle(shape);
    const kept = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-opacity", "stroke-dasharray", "vector-effect", "font", "text-anchor", "paint-order", "opacity", "translate"];
    copies[index].setAttribute("style", kept.map((name) => `${name}:${style.getPropertyValue(name)}`).join(";"));
  });
  return asImage(`data:image/svg+xml;charset=utf-8,${encodeURIComponent(new XMLSerializer().serializeToString(made))}`);
};

const plate = (context, x, y, width, height) => {
  context.fillStyle = "rgb(255 255 255 / .9)";
  context.beginPath();
  context.roundRect(x, y, width, height, 8);
  context.fill();
  context.fillStyle = "#16202c";
};

const drawScale = (context, height) => {
  const width = $("scale").querySelector("i").getBoundingClientRect().width;
  plate(context, 16, height - 52, width + 24, 38);
  context.textAlign = "center";
  context.fillText($("length").textContent, 28 + width / 2, height - 34);
  context.fillRect(28, height - 26, width, 3);
};

const entries = () => {
  if (!state.layers.find((layer) => layer.id === "cells").on) return [];
  if (state.cuts?.length === 3) return [["Negative", classColour(state.facts.classes.findIndex((kind) => kind.name === "Negative"))], ...Object.entries(state.facts.strengths)];
  return state.facts.classes.map((kind, index) => [kind.name, classColour(index), index]).filter(([, , index]) => !state.hidden.has(index));
};

const drawRamp = (context, right) => {
  const { name, low, high } = state.measure;
  plate(context, right - 196, 16, 180, 62);
  context.textAlign = "left";
  context.fillText(title(name), right - 184, 34);
  const colours = $("shades").content.match(/#[0-9a-f]{6}/g);
  const gradient = context.createLinearGradient(right - 184, 0, right - 28, 0);
  colours.forEach((colour, index) => gradient.addColorStop(index / (colours.length - 1), colour));
  context.fillStyle = gradient;
  context.fillRect(right - 184, 42, 156, 9);
  context.fillStyle = "#16202c";
  context.fillText(Number(low.toPrecision(3)), right - 184, 68);
  context.textAlign = "right";
  context.fillText(Number(high.toPrecision(3)), right - 28, 68);
};

const drawLegend = (context, right) => {
  if (state.paint && state.measure) return drawRamp(context, right);
  const all = entries();
  if (!all.length) return;
  const width = Math.max(...all.map(([name]) => context.measureText(name).width)) + 46;
  plate(context, right - width - 16, 16, width, 12 + 20 * all.length);
  context.textAlign = "left";
  all.forEach(([name, colour], index) => {
    context.fillStyle = colour;
    context.fillRect(right - width - 4, 25 + 20 * index, 12, 12);
    context.fillStyle = "#16202c";
    context.fillText(name, right - width + 16, 36 + 20 * index);
  });
};

export const savePicture = async () => {
  const from = stage.viewer.drawer.canvas;
  const size = stage.viewer.viewport.getContainerSize();
  const density = from.width / size.x;
  const canvas = document.createElement("canvas");
  canvas.width = from.width;
  canvas.height = from.height;
  const context = canvas.getContext("2d");
  context.fillStyle = "#ffffff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(from, 0, 0);
  context.scale(density, density);
  context.drawImage(await drawing(size.x, size.y), 0, 0, size.x, size.y);
  context.font = "13px system-ui, sans-serif";
  drawScale(context, size.y);
  drawLegend(context, size.x);
  canvas.toBlob((blob) => download(blob, `${state.facts.name}.png`), "image/png");
};
