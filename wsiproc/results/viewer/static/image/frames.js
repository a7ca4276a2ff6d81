// Frames: the server speaks level-0 px of the slide, (x, y); OpenSeadragon's viewport is 1 wide over the slide.

import { $ } from "../dom.js";
import { state } from "../state.js";

export const stage = { viewer: null };

// What both viewers have in common. Keys are the page's: those of OpenSeadragon itself do nothing.
export const newViewer = (id, options) => {
  const viewer = OpenSeadragon({
    element: $(id),
    drawer: "canvas",
    showNavigationControl: false,
    maxZoomPixelRatio: 8,
    animationTime: 0.5,
    smoothTileEdgesMinZoom: Infinity,
    gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
    ...options,
  });
  viewer.addHandler("canvas-key", (event) => (event.preventDefaultAction = true));
  return viewer;
};

const slideWidth = () => state.facts.shape[1];
export const toSlide = (point) => ({ x: point.x * slideWidth(), y: point.y * slideWidth() });
export const toViewport = (x, y) => new OpenSeadragon.Point(x / slideWidth(), y / slideWidth());
export const toScreen = (x, y) => stage.viewer.viewport.pixelFromPoint(toViewport(x, y), true);
export const fromScreen = (pixel) => toSlide(stage.viewer.viewport.pointFromPixel(pixel, true));
export const screenScale = () => (stage.viewer.viewport.getZoom(true) * stage.viewer.viewport.getContainerSize().x) / slideWidth();
export const umPerPixel = () => state.facts.mpp / screenScale();
export const zoomFor = (um) => (slideWidth() * state.facts.mpp) / (um * stage.viewer.viewport.getContainerSize().x);
export const centre = () => toSlide(stage.viewer.viewport.getCenter());

export const goTo = (x, y, um = null) => {
  const { viewport } = stage.viewer;
  if (um !== null) viewport.zoomTo(zoomFor(um));
  viewport.panTo(toViewport(x, y));
};

export const length = (um) => (um >= 1000 ? `${(um / 1000).toLocaleString("en", { maximumFractionDigits: 2 })} mm` : `${um.toLocaleString("en", { maximumFractionDigits: um < 10 ? 2 : 1 })} µm`);
