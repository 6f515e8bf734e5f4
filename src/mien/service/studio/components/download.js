/** File downloads. */

/**
 * Offer content as a download.
 *
 * @param {string} name of the file
 * @param {Blob|string|ArrayBuffer|ArrayBufferView} content text is encoded as UTF-8
 * @param {string} [type] media type; by default that of the blob
 */
export function download(name, content, type) {
  const blob = content instanceof Blob ? content : new Blob([content], { type: type ?? "application/octet-stream" });
  const url = URL.createObjectURL(blob);
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000); // browsers read it shortly after the click
}
