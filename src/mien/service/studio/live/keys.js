/** Page-wide keyboard shortcuts that respect form fields and buttons. */

const TEXT_FIELDS = "textarea, select, [contenteditable], input:not([type=checkbox], [type=radio], [type=range])";
const ACTIVATED_BY_SPACE = `${TEXT_FIELDS}, button, a[href], summary, input:not([type=range])`;

/**
 * Create page-wide shortcuts.
 *
 * @param {(key: string) => boolean} handle receives a key in lower case; returns true if it handled it
 * @returns {{listen: () => void, ignore: () => void}}
 */
export function pageKeys(handle) {
  const onKey = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.defaultPrevented) return;
    if (document.querySelector("dialog[open]")) return;
    const excluded = event.key === " " ? ACTIVATED_BY_SPACE : TEXT_FIELDS;
    if (event.target instanceof Element && event.target.closest(excluded)) return;
    if (handle(event.key.toLowerCase())) event.preventDefault();
  };
  return {
    listen: () => document.addEventListener("keydown", onKey),
    ignore: () => document.removeEventListener("keydown", onKey),
  };
}
