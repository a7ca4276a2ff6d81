// Pyramids of tiles that the server draws.

import { element } from "../dom.js";

// Tiles are canvases that give their memory back when OpenSeadragon drops them; pictures would keep it for long.
const kept = {
  downloadTileStart: (job) => {
    const stop = new AbortController();
    job.userData.stop = stop;
    fetch(job.src, { signal: stop.signal })
      .then((answer) => (answer.ok ? answer.blob() : Promise.reject(new Error(answer.status))))
      .then(createImageBitmap)
      .then((picture) => {
        const canvas = element("canvas", { width: picture.width, height: picture.height });
        const context = canvas.getContext("2d");
        context.drawImage(picture, 0, 0);
        picture.close();
        job.finish(context, null, null);
      })
      .catch((error) => job.finish(null, null, error.message));
  },
  downloadTileAbort: (job) => job.userData.stop?.abort(),
  createTileCache: (cache, context) => {
    cache.context = context;
  },
  destroyTileCache: (cache) => {
    if (cache.context) cache.context.canvas.width = cache.context.canvas.height = 0;
    cache.context = null;
  },
  getTileCacheData: (cache) => cache.context,
  getTileCacheDataAsImage: (cache) => cache.context.canvas,
  getTileCacheDataAsContext2D: (cache) => cache.context,
};

// `finest`, `coarsest`: powers of two of px of the frame (`shape`: h, w) that a px of the finest and the coarsest level is.
export const pyramid = (facts, [height, width], finest, coarsest, url) => {
  const maxLevel = Math.max(0, Math.ceil(Math.log2(Math.max(height, width) * 2 ** -finest)));
  return {
    ...kept,
    height: height * 2 ** -finest,
    width: width * 2 ** -finest,
    tileSize: facts.tile_px,
    minLevel: Math.max(0, maxLevel - (coarsest - finest)),
    maxLevel,
    getTileUrl: (level, col, row) => url(maxLevel - level + finest, row, col),
  };
};
