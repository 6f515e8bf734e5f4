/** Building elements: the page has no markup of its own, so that every word comes from strings.js. */

const SVG = "http://www.w3.org/2000/svg";

/**
 * Make an element.
 *
 * @param {string} tag as "button" or "div.card.wide"
 * @param {object|null} [props] `on…` are listeners, `data` and `style` objects (custom properties, too); null, undefined
 *   and false leave an attribute out; what is a property of the element is set as one, the rest as attributes
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

/** Whether nothing that can be seen has the focus: what had it was taken away or hidden. */
export function isFocusLost() {
  const { activeElement: focused } = document;
  return !focused || focused === document.body || !focused.checkVisibility();
}

/** Replace what is in an element; return it. */
export function fill(element, ...children) {
  element.replaceChildren(...flat(children));
  return element;
}

/** Make an SVG element. */
export function svg(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes ?? {})) element.setAttribute(key, value);
  element.append(...flat(children));
  return element;
}

let count = 0;

/** A new id, for labels and descriptions. */
export function newId(prefix = "id") {
  count += 1;
  return `${prefix}-${count}`;
}
