/** Keys that work wherever the focus is, unless they mean something else there. */

const TYPED_INTO = "textarea, select, [contenteditable], input:not([type=checkbox], [type=radio], [type=range])";
const PRESSED = `${TYPED_INTO}, button, a[href], summary, input:not([type=range])`; // who does something at Space

/**
 * Listen to keys of the whole page.
 *
 * @param {(key: string) => boolean} handle takes " " or a character in lower case; true: it was meant
 * @returns {{listen: () => void, ignore: () => void}}
 */
export function pageKeys(handle) {
  const pressed = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.defaultPrevented) return;
    if (document.querySelector("dialog[open]")) return;
    const own = event.key === " " ? PRESSED : TYPED_INTO;
    if (event.target instanceof Element && event.target.closest(own)) return;
    if (handle(event.key.toLowerCase())) event.preventDefault();
  };
  return {
    listen: () => document.addEventListener("keydown", pressed),
    ignore: () => document.removeEventListener("keydown", pressed),
  };
}
