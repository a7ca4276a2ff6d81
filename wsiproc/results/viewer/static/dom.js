// Small things that every part of the page uses: elements, numbers, requests.

export const $ = (id) => document.getElementById(id);
export const number = (value, digits = 0) => value.toLocaleString("en", { maximumFractionDigits: digits });
export const api = (slide, path = "") => `api/slides/${encodeURIComponent(slide)}${path}`;

// Three digits that count: 12,345 · 123 · 12.3 · 0.0123.
export const brief = (value) => {
  if (value === null || value === undefined) return "–";
  return Math.abs(value) >= 100 || value === 0 ? number(value) : value.toLocaleString("en", { maximumSignificantDigits: 3 });
};

export const mayWrite = document.querySelector("meta[name=wsiproc-write]").content === "1";
const token = document.querySelector("meta[name=wsiproc-token]").content;

const answered = async (answer) => {
  if (!answer.ok) throw Object.assign(new Error(await answer.text()), { status: answer.status });
  return answer.json();
};

export const get = async (url) => answered(await fetch(url));

export const send = async (method, url, body) =>
  answered(await fetch(url, { method, headers: { "Content-Type": "application/json", "X-Wsiproc-Token": token }, body: JSON.stringify(body) }));

export const element = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in made && name !== "list") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
};

export const button = (text, title, onclick, attributes = {}) =>
  element("button", { type: "button", textContent: text, title, ariaLabel: title, onclick, ...attributes });

export const chip = (colour) => {
  const made = element("i", { className: "chip" });
  made.style.setProperty("--colour", colour);
  return made;
};

export const SVG = "http://www.w3.org/2000/svg";

export const drawn = (tag, attributes) => {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
};

// What a reader of the screen is told, and what happened in a line that goes away.
export const say = (text) => {
  $("live").textContent = text;
};

let fading = 0;
export const toast = (text) => {
  say(text);
  $("toast").textContent = text;
  $("toast").hidden = false;
  clearTimeout(fading);
  fading = setTimeout(() => ($("toast").hidden = true), 3500);
};

export const complain = (error) => {
  if (error.status >= 400 && error.status < 500) {
    toast(error.message);
    return;
  }
  $("lost").textContent = `The server does not answer as it should (${error.message}). Is wsiproc view still running?`;
  $("lost").hidden = false;
};

export const copy = async (text, what) => {
  try {
    await navigator.clipboard.writeText(text);
    toast(`${what} copied`);
  } catch {
    window.prompt(`Copy ${what}:`, text);
  }
};

export const download = (blob, name) => {
  const link = element("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
};

// The last call wins: answers that come late are dropped.
export const latest = (ask, take) => {
  let current = 0;
  return async (...given) => {
    const mine = ++current;
    try {
      const answer = await ask(...given);
      if (mine === current) take(answer);
    } catch (error) {
      complain(error);
    }
  };
};

export const soon = (milliseconds, then) => {
  let waiting = 0;
  return () => {
    clearTimeout(waiting);
    waiting = setTimeout(then, milliseconds);
  };
};

const UNITS = { _um2: "µm²", _um: "µm" };
export const title = (name) => {
  const suffix = Object.keys(UNITS).find((ending) => name.endsWith(ending)) ?? "";
  const words = name.slice(0, name.length - suffix.length).replaceAll("_", " ").replace(/\bod\b/, "OD").replace(/\bdab\b/, "DAB");
  return words[0].toUpperCase() + words.slice(1) + (suffix ? ` (${UNITS[suffix]})` : "");
};
