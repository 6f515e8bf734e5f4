/** Drag and drop of files. */

/**
 * Make an element a drop target; it has `data-drop` while files are dragged over it.
 *
 * @param {HTMLElement} element
 * @param {(files: File[]) => void} onFiles
 */
export function acceptFiles(element, onFiles) {
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  element.addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
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
    if (files.length > 0) onFiles(files);
  });
}
