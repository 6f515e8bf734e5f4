/** Menu button with the keyboard support of the ARIA Authoring Practices. */

import { h, newId } from "./dom.js";
import { icon } from "./icons.js";

/**
 * Create a menu button.
 *
 * @param {object} options
 * @param {string} options.label
 * @param {string} options.iconName
 * @param {Array<{label: string, hint?: string, iconName: string, action: () => void}>} options.items
 * @param {string} [options.className] of the button
 * @returns {HTMLElement}
 */
export function createMenu({ label, iconName, items, className = "" }) {
  const id = newId("menu");
  const rows = items.map((item) =>
    h(
      "button.menu-item",
      { type: "button", role: "menuitem", tabIndex: -1, onClick: () => (close(), item.action()) },
      icon(item.iconName),
      h("span", null, item.label),
      item.hint && h("span.hint", null, item.hint),
    ),
  );
  const list = h("div.menu-list", { role: "menu", id, "aria-label": label, hidden: true, onKeydown: onListKey }, rows);
  const button = h(
    "button.button",
    { type: "button", class: className, "aria-haspopup": "menu", "aria-expanded": false, "aria-controls": id, onClick: toggle, onKeydown: onButtonKey },
    icon(iconName),
    h("span", null, label),
  );
  const element = h("div.menu", { onFocusout: onLeave }, button, list);

  function open(index = 0) {
    list.hidden = false;
    button.setAttribute("aria-expanded", "true");
    document.addEventListener("pointerdown", onOutside);
    element.classList.toggle("start", element.getBoundingClientRect().right < 264);
    rows.at(index)?.focus();
  }

  function close({ refocus = true } = {}) {
    if (list.hidden) return;
    const inside = list.contains(document.activeElement);
    list.hidden = true;
    button.setAttribute("aria-expanded", "false");
    document.removeEventListener("pointerdown", onOutside);
    if (refocus && inside) button.focus();
  }

  function toggle() {
    if (list.hidden) open();
    else close();
  }

  function onOutside({ target }) {
    if (!element.contains(target)) close({ refocus: false });
  }

  function onLeave({ relatedTarget }) {
    if (relatedTarget && !element.contains(relatedTarget)) close({ refocus: false });
  }

  function onButtonKey(event) {
    const index = { ArrowDown: 0, ArrowUp: -1 }[event.key];
    if (index === undefined) return;
    event.preventDefault();
    open(index);
  }

  function onListKey(event) {
    const index = rows.indexOf(document.activeElement);
    const target = { ArrowDown: (index + 1) % rows.length, ArrowUp: index - 1, Home: 0, End: -1 }[event.key];
    if (event.key === "Escape") close();
    else if (target !== undefined) rows.at(target)?.focus();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  return element;
}
