/** Saving a file from the page. */

/**
 * Offer content as a download.
 *
 * @param {string} name of the file
 * @param {Blob|string|ArrayBuffer|ArrayBufferView} content text is written as UTF-8
 * @param {string} [type] its media type; the blob's own unless given
 */
export function download(name, content, type) {
  const blob = content instanceof Blob ? content : new Blob([content], { type: type ?? "application/octet-stream" });
  const address = URL.createObjectURL(blob);
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000); // browsers read it soon after the click, not at it
}
