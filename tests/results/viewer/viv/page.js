// The smallest page that shows an OME-Zarr by Viv: all channels of the address in ?source=, fitted into the window.
import { Deck, OrthographicView } from "@deck.gl/core";
import { ColorPaletteExtension, MultiscaleImageLayer, loadOmeZarr } from "@hms-dbmi/viv";

const source = new URLSearchParams(location.search).get("source");
const { data, metadata } = await loadOmeZarr(source, { type: "multiscales" });
const [, height, width] = data[0].shape;
const channels = metadata.omero.channels;
const zoom = Math.log2(Math.min(innerWidth / width, innerHeight / height));
window.shape = data.map((level) => level.shape);
window.deck = new Deck({
  parent: document.body,
  views: [new OrthographicView({ id: "image", flipY: true })],
  initialViewState: { target: [width / 2, height / 2, 0], zoom },
  controller: true,
  deviceProps: { type: "webgl", webgl: { preserveDrawingBuffer: true } },
  layers: [
    new MultiscaleImageLayer({
      id: "slide",
      loader: data,
      selections: channels.map((_, c) => ({ c })),
      channelsVisible: channels.map(() => true),
      contrastLimits: channels.map(({ window: { start, end } }) => [start, end]),
      colors: channels.map(({ color }) => [0, 2, 4].map((at) => parseInt(color.slice(at, at + 2), 16))),
      extensions: [new ColorPaletteExtension()],
      onViewportLoad: () => (window.loaded = true),
    }),
  ],
});
