/** Files that are let go over a view. */

/**
 * Make an element a place for files; `data-drop` says that some are held over it.
 *
 * @param {HTMLElement} element
 * @param {(files: File[]) => void} take
 */
export function takeFiles(element, take) {
  const held = (event) => event.dataTransfer?.types.includes("Files");
  element.addEventListener("dragover", (event) => {
    if (!held(event)) return;
    event.preventDefault();
    element.dataset.drop = "true";
  });
  element.addEventListener("dragleave", ({ relatedTarget }) => {
    if (!element.contains(relatedTarget)) delete element.dataset.drop;
  });
  element.addEventListener("drop", (event) => {
    event.preventDefault();
    delete element.dataset.drop;
    const files = [...(event.dataTransfer?.files ?? [])];
    if (files.length > 0) take(files);
  });
}
