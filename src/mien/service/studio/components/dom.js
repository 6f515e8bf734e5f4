/** Helpers to build DOM elements. The page is built in JavaScript, so that all text comes from strings.js. */

const SVG = "http://www.w3.org/2000/svg";

/**
 * Create an element.
 *
 * @param {string} tag such as "button" or "div.card.wide"
 * @param {object|null} [props] `on…` are listeners, `data` and `style` are objects; other names are set as properties
 *   if the element has them, else as attributes; null, undefined and false omit an attribute
 * @param {...(Node|string|null|false|Array)} children
 * @returns {HTMLElement}
 */
export function h(tag, props, ...children) {
  const [name, ...classes] = tag.split(".");
  const element = document.createElement(name || "div");
  if (classes.length) element.className = classes.join(" ");
  for (const [key, value] of Object.entries(props ?? {})) setProp(element, key, value);
  element.append(...flat(children));
  return element;
}

function setProp(element, key, value) {
  if (value === null || value === undefined) return;
  if (key.startsWith("on")) element.addEventListener(key.slice(2).toLowerCase(), value);
  else if (key === "data") Object.assign(element.dataset, value);
  else if (key === "style") for (const [name, text] of Object.entries(value)) element.style.setProperty(name, text);
  else if (key === "class") element.classList.add(...value.split(" ").filter(Boolean));
  else if (key.startsWith("aria-")) element.setAttribute(key, String(value));
  else if (key in element && !key.includes("-")) element[key] = value;
  else if (value !== false) element.setAttribute(key, value === true ? "" : value);
}

function flat(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
}

/** Whether the focused element was removed or hidden. */
export function isFocusLost() {
  const { activeElement: focused } = document;
  return !focused || focused === document.body || !focused.checkVisibility();
}

/** Replace an element's children; returns the element. */
export function fill(element, ...children) {
  element.replaceChildren(...flat(children));
  return element;
}

/** Create an SVG element. */
export function svg(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes ?? {})) element.setAttribute(key, value);
  element.append(...flat(children));
  return element;
}

/** Fit a canvas to a size in CSS pixels at the screen's resolution, and clear it; returns its context. */
export function clearCanvas(canvas, cssWidth, cssHeight) {
  const [width, height] = [cssWidth, cssHeight].map((length) => Math.round(length * (devicePixelRatio || 1)));
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

let count = 0;

/** Create a unique id. */
export function newId(prefix = "id") {
  count += 1;
  return `${prefix}-${count}`;
}
