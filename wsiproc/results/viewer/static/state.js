// What is shown, and how the address keeps it. Every part of the page says what it keeps there.

export const state = {
  slides: [],
  facts: null,
  layers: [],
  hidden: new Set(), // indexes of classes
  colours: new Map(), // index of a class → colour that the user gave it
  filled: false,
  picked: null,
  measure: null, // { name, low, high }: a measurement and the ends of its histogram
  paint: false, // cells are coloured by it
  keep: [null, null], // ends of the range that is kept; null is open
  grey: true, // what is not kept is grey, else hidden
  cuts: null, // thresholds of DAB, one or three
};

// How the cells are coloured and which are shown, as the server takes it.
export const lookQuery = (filtered = true) => {
  const query = new URLSearchParams();
  if (state.hidden.size) query.set("hide", [...state.hidden].sort((a, b) => a - b).join(","));
  if (state.colours.size) query.set("colours", [...state.colours].map(([index, colour]) => `${index}:${colour.slice(1)}`).join(","));
  if (state.measure) {
    query.set("measure", state.measure.name);
    if (state.paint) {
      query.set("paint", "1");
      query.set("domain", `${state.measure.low},${state.measure.high}`);
    }
    if (filtered && state.keep.some((end) => end !== null)) query.set("keep", state.keep.map((end) => end ?? "").join(","));
    if (state.grey) query.set("grey", "1");
  }
  if (state.cuts) query.set("cuts", state.cuts.join(","));
  return query;
};

const keepers = [];

// `save` puts into the address what differs from the usual; `load` takes it when a slide is opened.
export const keptInAddress = (save, load) => keepers.push({ save, load });

export const readAddress = () => new URLSearchParams(location.hash.slice(1));

export const loadAddress = async (address) => {
  for (const { load } of keepers) await load(address);
};

let ready = false;
export const holdAddress = () => (ready = false);

export const writeAddress = () => {
  if (!ready) return;
  const address = new URLSearchParams({ slide: state.facts.name });
  for (const { save } of keepers) save(address);
  history.replaceState(null, "", `#${address}`);
};

export const releaseAddress = () => {
  ready = true;
  writeAddress();
};
