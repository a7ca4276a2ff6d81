// Frames: the server speaks level-0 px of the slide, (x, y); OpenSeadragon's viewport is 1 wide over the slide.

import { state } from "../state.js";

export const stage = { viewer: null };

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
