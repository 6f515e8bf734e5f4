/** Modal dialogs based on <dialog>, which traps the focus, closes with Escape and restores the focus. */

import { strings } from "../strings.js";
import { h, newId } from "./dom.js";
import { icon } from "./icons.js";

/**
 * Open a dialog.
 *
 * @param {object} options
 * @param {string} options.title
 * @param {Node|Node[]} options.content
 * @param {Array<{label: string, primary?: boolean, action: (close: () => void) => void}>} [options.actions]
 * @param {string} [options.className]
 * @param {() => void} [options.onClose] called after closing, however it was closed
 * @returns {{element: HTMLDialogElement, close: () => void}}
 */
export function openDialog({ title, content, actions = [], className = "", onClose = () => {} }) {
  const id = newId("title");
  const close = () => element.close();
  const element = h(
    "dialog.dialog",
    { class: className, "aria-labelledby": id },
    h(
      "div.dialog-head",
      null,
      h("h2", { id }, title),
      h("button.button.quiet.round", { type: "button", "aria-label": strings.dialog.close, onClick: close }, icon("close")),
    ),
    h("div.dialog-body", { tabIndex: 0 }, content),
    actions.length > 0 &&
      h(
        "div.dialog-foot.row",
        null,
        actions.map(({ label, primary, action }) =>
          h("button.button", { type: "button", class: primary ? "primary" : "", onClick: () => action(close) }, label),
        ),
      ),
  );
  element.addEventListener("click", ({ target }) => target === element && close()); // click on the backdrop
  element.addEventListener("close", () => {
    element.remove();
    onClose();
  });
  document.body.append(element);
  element.showModal();
  return { element, close };
}
