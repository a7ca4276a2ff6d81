// The page: OpenSeadragon over the slide, overlays that the server draws, and what one can do with them.
// Frames: the server speaks level-0 px of the slide, (x, y); OpenSeadragon's viewport is 1 wide over the slide.

const $ = (id) => document.getElementById(id);
const number = (value, digits = 0) => value.toLocaleString("en", { maximumFractionDigits: digits });
const api = (slide, path = "") => `api/slides/${encodeURIComponent(slide)}${path}`;

const MAGNIFICATIONS = [1, 5, 10, 20, 40];
const UM_AT_40X = 0.25; // µm per px of what is called 40×
const KEPT_TILES = 60; // of 512 px, a MiB each
const UNITS = { _um2: "µm²", _um: "µm" };

const state = { slides: [], facts: null, layers: [], hidden: new Set(), filled: false, picked: null };
let viewer = null;
let drawing = null; // the SVG over the slide: regions, the cell under the pointer, the picked one

const get = async (url) => {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${answer.status}: ${await answer.text()}`);
  return answer.json();
};

const element = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in made && name !== "list") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
};

const chip = (colour) => {
  const made = element("i", { className: "chip" });
  made.style.setProperty("--colour", colour);
  return made;
};

const complain = (error) => {
  $("lost").textContent = `The server does not answer as it should (${error.message}). Is wsiproc view still running?`;
  $("lost").hidden = false;
};

// --- the address keeps the view ---

const readAddress = () => new URLSearchParams(location.hash.slice(1));

const writeAddress = () => {
  if (!state.facts || !viewer.world.getItemCount()) return;
  const centre = toSlide(viewer.viewport.getCenter());
  const address = new URLSearchParams({
    slide: state.facts.name,
    x: centre.x.toFixed(0),
    y: centre.y.toFixed(0),
    um: umPerPixel().toPrecision(4),
    layers: state.layers.filter((layer) => layer.on).map((layer) => `${layer.id}:${layer.opacity}`).join(","),
  });
  if (state.hidden.size) address.set("hide", [...state.hidden].join(","));
  if (state.filled) address.set("filled", "1");
  if (state.picked) address.set("cell", state.picked.id);
  history.replaceState(null, "", `#${address}`);
};

// --- frames ---

const slideWidth = () => state.facts.shape[1];
const toSlide = (point) => ({ x: point.x * slideWidth(), y: point.y * slideWidth() });
const toViewport = (x, y) => new OpenSeadragon.Point(x / slideWidth(), y / slideWidth());
const umPerPixel = () => (slideWidth() * state.facts.mpp) / (viewer.viewport.getZoom(true) * viewer.viewport.getContainerSize().x);
const zoomFor = (um) => (slideWidth() * state.facts.mpp) / (um * viewer.viewport.getContainerSize().x);

// --- layers ---

// Tiles are canvases that give their memory back when OpenSeadragon drops them; pictures would keep it for long.
const tiles = {
  downloadTileStart: (job) => {
    const stop = new AbortController();
    job.userData.stop = stop;
    fetch(job.src, { signal: stop.signal })
      .then((answer) => (answer.ok ? answer.blob() : Promise.reject(new Error(answer.status))))
      .then(createImageBitmap)
      .then((picture) => {
        const canvas = element("canvas", { width: picture.width, height: picture.height });
        const drawn = canvas.getContext("2d");
        drawn.drawImage(picture, 0, 0);
        picture.close();
        job.finish(drawn, null, null);
      })
      .catch((error) => job.finish(null, null, error.message));
  },
  downloadTileAbort: (job) => job.userData.stop?.abort(),
  createTileCache: (cache, drawn) => {
    cache.drawn = drawn;
  },
  destroyTileCache: (cache) => {
    if (cache.drawn) cache.drawn.canvas.width = cache.drawn.canvas.height = 0;
    cache.drawn = null;
  },
  getTileCacheData: (cache) => cache.drawn,
  getTileCacheDataAsImage: (cache) => cache.drawn.canvas,
  getTileCacheDataAsContext2D: (cache) => cache.drawn,
};

const pyramid = (height, width, finest, coarsest, url) => {
  // `finest`, `coarsest`: powers of two of px of the frame that a px of the finest and the coarsest level is.
  const maxLevel = Math.max(0, Math.ceil(Math.log2(Math.max(height, width) * 2 ** -finest)));
  return {
    ...tiles,
    height: height * 2 ** -finest,
    width: width * 2 ** -finest,
    tileSize: state.facts.tile_px,
    minLevel: Math.max(0, maxLevel - (coarsest - finest)),
    maxLevel,
    getTileUrl: (level, col, row) => url(maxLevel - level + finest, row, col),
  };
};

const layerSources = () => {
  const facts = state.facts;
  const [height, width] = facts.grid.shape;
  const cells = (k, row, col) =>
    `${api(facts.name)}/cells/${k}/${row}/${col}.png?hide=${[...state.hidden]}&filled=${state.filled ? 1 : 0}`;
  return [
    { id: "cells", title: "Cells", on: true, opacity: 1, source: () => pyramid(height, width, facts.finest, 24, cells) },
    { id: "density", title: "Density", on: false, opacity: 0.8, source: () => ({ type: "image", url: api(facts.name, "/density.png") }) },
    { id: "tissue", title: "Tissue", on: false, opacity: 0.9, source: () => ({ type: "image", url: api(facts.name, "/tissue.png") }) },
    { id: "regions", title: "Regions", on: false, opacity: 1, source: null },
    ...facts.maps.map((map, index) => ({
      id: `map-${map.name}`,
      title: `Map: ${map.name}`,
      colour: map.colour,
      on: false,
      opacity: 0.8,
      source: () => pyramid(height, width, 0, facts.grid.levels - 1, (k, row, col) => `${api(facts.name)}/maps/${index}/${k}/${row}/${col}.png`),
    })),
  ];
};

const place = (layer) => {
  const order = state.layers.filter((other) => other.item && state.layers.indexOf(other) > state.layers.indexOf(layer)).length;
  viewer.addTiledImage({
    tileSource: layer.source(),
    x: 0,
    y: 0,
    width: 1,
    // Both frames cover the same extent; grid px are not quite square in slide px.
    opacity: layer.opacity,
    index: 1 + order,
    success: ({ item }) => {
      if (!layer.on || layer.stale) {
        viewer.world.removeItem(item);
        layer.stale = false;
        if (layer.on) place(layer);
        return;
      }
      layer.item = item;
    },
    error: (event) => complain(new Error(event.message)),
  });
};

const show = (layer, on) => {
  layer.on = on;
  if (layer.id === "regions") drawRegions();
  else if (on && !layer.item) place(layer);
  else if (!on && layer.item) {
    viewer.world.removeItem(layer.item);
    layer.item = null;
  }
  if (layer.id === "density") showRamp(on);
  writeAddress();
};

const redrawCells = () => {
  const layer = state.layers.find((other) => other.id === "cells");
  if (layer.item) {
    viewer.world.removeItem(layer.item);
    layer.item = null;
    place(layer);
  } else layer.stale = layer.on;
  writeAddress();
};

const setOpacity = (layer, value) => {
  layer.opacity = value;
  if (layer.item) layer.item.setOpacity(value);
  if (layer.id === "regions") drawRegions();
  writeAddress();
};

const showRamp = async (on) => {
  $("ramp").hidden = !on;
  if (!on) return;
  const answer = await fetch(api(state.facts.name, "/density.png"));
  $("deepest").textContent = `≥ ${number(Number(answer.headers.get("X-Deepest")))} cells/mm²`;
};

const listLayers = () => {
  $("layers").replaceChildren(
    ...state.layers.map((layer, index) => {
      const box = element("input", { type: "checkbox", checked: layer.on, onchange: () => show(layer, box.checked) });
      const range = element("input", {
        type: "range", min: 0.1, max: 1, step: 0.05, value: layer.opacity, title: "opacity",
        ariaLabel: `opacity of ${layer.title}`, oninput: () => setOpacity(layer, Number(range.value)),
      });
      layer.box = box;
      const label = element("label", { title: index < 9 ? `key ${index + 1}` : "" }, box);
      if (layer.colour) label.append(chip(layer.colour));
      label.append(layer.title);
      return element("li", {}, label, range);
    }),
  );
};

const listClasses = () => {
  const shown = (index) => !state.hidden.has(index);
  $("classes").replaceChildren(
    ...state.facts.classes.map((kind, index) => {
      const box = element("input", {
        type: "checkbox", checked: shown(index),
        onchange: () => {
          if (box.checked) state.hidden.delete(index);
          else state.hidden.add(index);
          redrawCells();
        },
      });
      return element("li", {}, element("label", {}, box, chip(kind.colour), kind.name), element("span", {}, number(kind.cells)));
    }),
  );
};

// --- drawn over the slide ---

const SVG = "http://www.w3.org/2000/svg";
const path = (kind, d) => {
  const made = document.createElementNS(SVG, "path");
  made.setAttribute("class", kind);
  made.setAttribute("d", d);
  return made;
};

const ring = (outline) => `M${outline.map((point) => point.join(" ")).join("L")}Z`;

const makeDrawing = () => {
  // As large as the stage, with what is in it moved: an element as large as the slide on the screen costs its memory.
  drawing?.remove();
  drawing = document.createElementNS(SVG, "svg");
  drawing.setAttribute("class", "overlay");
  for (const id of ["regions", "hover", "picked"]) {
    const group = document.createElementNS(SVG, "g");
    group.setAttribute("data-id", id);
    drawing.append(group);
  }
  viewer.canvas.append(drawing);
  moveDrawing();
};

const moveDrawing = () => {
  if (!drawing || !state.facts) return;
  const corner = viewer.viewport.pixelFromPoint(new OpenSeadragon.Point(0, 0), true);
  const scale = (viewer.viewport.getZoom(true) * viewer.viewport.getContainerSize().x) / slideWidth();
  for (const group of drawing.children) group.setAttribute("transform", `translate(${corner.x} ${corner.y}) scale(${scale})`);
};

const group = (id) => drawing.querySelector(`[data-id="${id}"]`);

const drawRegions = () => {
  const layer = state.layers.find((other) => other.id === "regions");
  const [sy, sx] = state.facts.grid.scale;
  const box = ([y, x, h, w]) => `M${x * sx} ${y * sy}h${w * sx}v${h * sy}h${-w * sx}Z`;
  const failed = state.facts.failed.map((region) => region.box);
  group("regions").replaceChildren(
    ...(layer.on ? [path("region", state.facts.regions.map(box).join("")), path("failed", failed.map(box).join(""))] : []),
  );
  group("regions").style.opacity = layer.opacity;
};

// --- cells ---

const title = (name) => {
  const suffix = Object.keys(UNITS).find((ending) => name.endsWith(ending)) ?? "";
  const words = name.slice(0, name.length - suffix.length).replaceAll("_", " ").replace(/\bod\b/, "OD");
  return words[0].toUpperCase() + words.slice(1) + (suffix ? ` (${UNITS[suffix]})` : "");
};

const describe = (cell) => {
  const rows = [["Score", number(cell.score, 3)], ...Object.entries(cell.measurements).map(([name, value]) => [title(name), number(value, 3)])];
  rows.push(["Centre (px)", `${number(cell.centre[0])}, ${number(cell.centre[1])}`]);
  $("cell").replaceChildren(
    element("button", { type: "button", textContent: "×", title: "close", ariaLabel: "close", onclick: () => pick(null) }),
    element("h3", {}, chip(cell.colour), `${cell.class} ${cell.id}`),
    element("table", {}, element("tbody", {}, ...rows.map(([name, value]) => element("tr", {}, element("td", {}, name), element("td", {}, value))))),
  );
};

const pick = (cell) => {
  state.picked = cell;
  $("cell").hidden = !cell;
  if (cell) describe(cell);
  group("picked").replaceChildren(...(cell ? [path("picked", ring(cell.outline)), path("picked", ring(cell.outline))] : []));
  writeAddress();
};

const cellAt = async (point) => get(api(state.facts.name, `/cell?x=${point.x.toFixed(1)}&y=${point.y.toFixed(1)}`));
const closeEnough = () => umPerPixel() < 2.5;

let asking = false;
const hover = async (pixel) => {
  const point = toSlide(viewer.viewport.pointFromPixel(pixel));
  const inside = point.x >= 0 && point.y >= 0 && point.x < state.facts.shape[1] && point.y < state.facts.shape[0];
  $("place").textContent = inside ? `${number(point.x)}, ${number(point.y)} px   ·   ${number((point.x * state.facts.mpp) / 1000, 2)}, ${number((point.y * state.facts.mpp) / 1000, 2)} mm` : "";
  if (asking || !inside || !closeEnough()) {
    if (!closeEnough()) group("hover").replaceChildren();
    return;
  }
  asking = true;
  try {
    const name = state.facts.name;
    const cell = await cellAt(point);
    if (state.facts.name === name) group("hover").replaceChildren(...(cell && cell.id !== state.picked?.id ? [path("hover", ring(cell.outline))] : []));
  } catch (error) {
    complain(error);
  } finally {
    asking = false;
  }
};

// --- scale and magnification ---

const showScale = () => {
  const um = umPerPixel();
  const wanted = um * 84;
  const power = 10 ** Math.floor(Math.log10(wanted));
  const length = [5, 2, 1].map((factor) => factor * power).find((value) => value <= wanted) ?? power;
  $("scale").querySelector("i").style.width = `${length / um}px`;
  $("length").textContent = length >= 1000 ? `${number(length / 1000)} mm` : `${number(length, 2)} µm`;
  for (const button of $("tools").querySelectorAll("button[data-um]")) {
    button.setAttribute("aria-pressed", String(Math.abs(Math.log2(Number(button.dataset.um) / um)) < 0.02));
  }
};

const listMagnifications = () => {
  const fit = element("button", { type: "button", textContent: "Fit", onclick: () => viewer.viewport.goHome() });
  const steps = MAGNIFICATIONS.map((times) => {
    const um = (UM_AT_40X * 40) / times;
    const button = element("button", { type: "button", textContent: `${times}×`, title: `${um} µm a pixel`, onclick: () => viewer.viewport.zoomTo(zoomFor(um)) });
    button.dataset.um = um;
    return button;
  });
  $("tools").replaceChildren(fit, ...steps);
};

// --- slides ---

const listSlides = () => {
  $("slides").hidden = state.slides.length < 2;
  $("find").hidden = state.slides.length < 8;
  const wanted = $("find").value.toLowerCase();
  $("cards").replaceChildren(
    ...state.slides
      .filter((slide) => slide.name.toLowerCase().includes(wanted))
      .map((slide) => {
        const index = slide.positive_index === null ? "" : `, ${number(100 * slide.positive_index, 1)} % positive`;
        return element("li", {}, element(
          "button",
          { type: "button", title: slide.name, ariaCurrent: String(slide.name === state.facts?.name), onclick: () => open(slide.name) },
          element("img", { src: api(slide.name, "/thumbnail.jpg?px=108"), loading: "lazy", alt: "" }),
          element("span", {}, element("b", {}, slide.name), element("span", { className: "soft" }, `${number(slide.cells)} cells${index}`)),
        ));
      }),
  );
};

const step = (by) => {
  const at = state.slides.findIndex((slide) => slide.name === state.facts.name);
  const next = state.slides[at + by];
  if (next) open(next.name);
};

const open = async (name, address = new URLSearchParams()) => {
  state.facts = await get(api(name));
  state.picked = null;
  state.hidden = new Set((address.get("hide") ?? "").split(",").filter(Boolean).map(Number));
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
  const facts = state.facts;
  document.title = `${name} · wsiproc`;
  $("name").textContent = name;
  const density = facts.per_mm2 === null ? "" : ` · ${number(facts.per_mm2)} cells/mm²`;
  const index = facts.positive_index === null ? "" : ` · ${number(100 * facts.positive_index, 1)} % positive`;
  $("summary").textContent = `${number(facts.cells)} cells · ${number(facts.tissue_mm2, 2)} mm²${density}${index}`;
  $("version").textContent = `model ${facts.model}, wsiproc ${facts.version}`;
  const messages = [...facts.messages];
  if (!facts.slide_there) messages.unshift("The slide file is not where it was; its overview stands in. Say where it is: wsiproc view … --slides FOLDER");
  $("notes").hidden = !messages.length;
  $("messages").replaceChildren(...messages.map((text) => element("li", {}, text)));
  $("cell").hidden = true;
  $("ramp").hidden = true;
  listSlides();
  listClasses();
  listLayers();
  viewer.close();
  viewer.addOnceHandler("open", () => opened(address));
  const [height, width] = facts.shape;
  viewer.open(pyramid(height, width, 0, 24, (k, row, col) => `${api(name)}/slide/${k}/${row}/${col}.jpg`));
};

const opened = async (address) => {
  makeDrawing();
  for (const layer of state.layers) if (layer.on) show(layer, true);
  if (address.has("um")) {
    viewer.viewport.zoomTo(zoomFor(Number(address.get("um"))), null, true);
    viewer.viewport.panTo(toViewport(Number(address.get("x")), Number(address.get("y"))), true);
  }
  showScale();
  writeAddress();
  if (address.has("cell")) pick(await get(api(state.facts.name, `/cell?id=${Number(address.get("cell"))}`)));
};

// --- keys ---

const toggle = (layer) => {
  layer.box.checked = !layer.on;
  show(layer, !layer.on);
};

const veil = (on) => {
  for (const layer of state.layers) if (layer.item) layer.item.setOpacity(on ? 0 : layer.opacity);
  if (drawing) drawing.style.visibility = on ? "hidden" : "";
};

const onKey = (event) => {
  if (event.target.matches("input[type=search]") || event.ctrlKey || event.metaKey || event.altKey) return;
  const move = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] }[event.key];
  if (move && !event.target.matches("input")) {
    const bounds = viewer.viewport.getBounds();
    viewer.viewport.panBy(new OpenSeadragon.Point(move[0] * bounds.width, move[1] * bounds.height));
  } else if (/^[1-9]$/.test(event.key)) {
    const layer = state.layers[Number(event.key) - 1];
    if (layer) toggle(layer);
  } else if (event.key === " " && !event.target.matches("input, button")) veil(true);
  else if (event.key === "+" || event.key === "=") viewer.viewport.zoomBy(1.5);
  else if (event.key === "-") viewer.viewport.zoomBy(1 / 1.5);
  else if (event.key === "0") viewer.viewport.goHome();
  else if (event.key === "f") $("filled").click();
  else if (event.key === "n") step(1);
  else if (event.key === "p") step(-1);
  else if (event.key === "?") $("keys").showModal();
  else if (event.key === "Escape") pick(null);
  else return;
  event.preventDefault();
};

const start = async () => {
  viewer = OpenSeadragon({
    element: $("stage"),
    drawer: "canvas",
    showNavigationControl: false,
    showNavigator: true,
    navigatorPosition: "BOTTOM_RIGHT",
    navigatorSizeRatio: 0.16,
    navigatorAutoFade: false,
    maxZoomPixelRatio: 8,
    minZoomImageRatio: 0.6,
    visibilityRatio: 0.2,
    animationTime: 0.5,
    imageLoaderLimit: 6,
    maxImageCacheCount: KEPT_TILES,
    smoothTileEdgesMinZoom: Infinity,
    keyboardNavEnabled: false,
    gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
  });
  window.viewer = viewer; // for those who look under the bonnet
  viewer.addHandler("animation", showScale);
  viewer.addHandler("update-viewport", moveDrawing);
  viewer.addHandler("animation-finish", writeAddress);
  viewer.addHandler("resize", showScale);
  viewer.addHandler("canvas-click", async (event) => {
    if (!event.quick) return;
    try {
      pick(await cellAt(toSlide(viewer.viewport.pointFromPixel(event.position))));
    } catch (error) {
      complain(error);
    }
  });
  new OpenSeadragon.MouseTracker({ element: viewer.container, moveHandler: (event) => hover(event.position) });
  listMagnifications();
  $("filled").onchange = () => {
    state.filled = $("filled").checked;
    redrawCells();
  };
  $("help").onclick = () => $("keys").showModal();
  $("find").oninput = listSlides;
  document.addEventListener("keydown", onKey);
  document.addEventListener("keyup", (event) => event.key === " " && veil(false));
  state.slides = await get("api/slides");
  const address = readAddress();
  const named = state.slides.find((slide) => slide.name === address.get("slide"));
  await open((named ?? state.slides[0]).name, named ? address : new URLSearchParams());
  window.addEventListener("hashchange", () => open(readAddress().get("slide") ?? state.facts.name, readAddress()).catch(complain));
};

start().catch(complain);
