/** Dropped files and folders, and detection of picture files. */

const SUFFIX = /\.(jpe?g|png|webp|gif|bmp|avif|heic|heif|tiff?|ico|ppm)$/i;

/** Whether a file may be a picture, by its type, or by its name if the browser does not know the type. */
export function mayBePicture({ name, type }) {
  return type ? type.startsWith("image/") : SUFFIX.test(name) || !name.includes(".");
}

/** All dropped files; of dropped folders, the files named like pictures. */
export async function filesOf(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return [...transfer.files];
  const files = [];
  for (const entry of entries) await collect(entry, files, false);
  return files;
}

async function collect(entry, files, nested) {
  if (entry.isFile) {
    if (!nested || SUFFIX.test(entry.name)) files.push(await new Promise((resolve, reject) => entry.file(resolve, reject)));
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const batch = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!batch.length) return;
    for (const child of batch) await collect(child, files, true);
  }
}
