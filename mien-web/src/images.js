/**
 * Any image becomes pixels: upright, laid over white, without a colour profile applied, as
 * mien.core.images. Runs in the worker.
 *
 * @typedef {import("./pictures.js").Picture} Picture
 */

const MAX_PIXELS = 150_000_000;
const MAX_FILE_BYTES = 2 ** 30;
const KEPT_PIXELS = 4_000_000; // a canvas of more is let go
const HEAD_BYTES = 64;
const LONGEST_NAME = 100;

// What browsers decode; how each begins.
const READABLE = ["JPEG", "PNG", "WEBP", "AVIF", "BMP", "GIF", "ICO"];
const STARTS = [
  ["\xff\xd8\xff", "JPEG"], ["\x89PNG\r\n\x1a\n", "PNG"], ["GIF87a", "GIF"], ["GIF89a", "GIF"], ["BM", "BMP"],
  ["\0\0\x01\0", "ICO"], ["II*\0", "TIFF"], ["MM\0*", "TIFF"], ["\xff\x0a", "JPEG XL"], ["\0\0\0\x0cJXL ", "JPEG XL"],
  ["\xff\x4f\xff\x51", "JPEG 2000"], ["\0\0\0\x0cjP  ", "JPEG 2000"], ["8BPS", "Photoshop"], ["%PDF", "PDF"],
  ["<svg", "SVG"], ["\x1aE\xdf\xa3", "a video"],
];

/** Why an image cannot be read, in one line. */
export class UnreadableImage extends Error {}

/** What a file is by its first bytes, as "JPEG"; null if that is not known. */
export function imageKind(head) {
  const text = String.fromCharCode(...head.subarray(0, HEAD_BYTES));
  const start = STARTS.find(([begins]) => text.startsWith(begins));
  if (start) return start[1];
  if (text.startsWith("RIFF")) return { "WEBP": "WEBP", "AVI ": "a video" }[text.slice(8, 12)] ?? null;
  if (text.slice(4, 8) !== "ftyp") return null;
  const brand = text.slice(8, 12);
  if (["avif", "avis", "mif1", "msf1"].includes(brand)) return "AVIF";
  return brand.startsWith("hei") || brand.startsWith("hev") ? "HEIC" : "a video";
}

/** A name for a message: printable, its middle left out where it is long. */
export function shown(name) {
  const text = String(name).replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, "�");
  return text.length <= LONGEST_NAME ? text : `${text.slice(0, 33)}…${text.slice(-66)}`;
}

/** Decodes images, those of one size on one canvas. */
export class Decoder {
  #canvas = null;
  #context = null;

  /**
   * @param {Blob | ImageBitmap | ImageData | VideoFrame} image closed unless it is a Blob
   * @param {string} name for messages
   * @returns {Promise<Picture>} of four channels, the fourth without meaning
   * @throws {UnreadableImage}
   */
  async pixels(image, name) {
    if (image instanceof ImageData) return overWhite(image);
    const source = image instanceof Blob ? await decoded(image, name) : image;
    try {
      // A VideoFrame has other names for its size.
      const [width, height] = [source.displayWidth ?? source.width, source.displayHeight ?? source.height];
      if (!(width && height)) throw new UnreadableImage(`${name} has no pixels`);
      if (width * height > MAX_PIXELS) {
        throw new UnreadableImage(`${name} of ${width}x${height} is too large: expected at most 150 megapixels`);
      }
      return this.#drawn(source, width, height, name);
    } finally {
      source.close();
    }
  }

  #drawn(source, width, height, name) {
    try {
      if (this.#canvas?.width !== width || this.#canvas.height !== height) {
        this.#canvas = new OffscreenCanvas(width, height);
        this.#context = this.#canvas.getContext("2d", { willReadFrequently: true });
        this.#context.fillStyle = "white";
      }
      this.#context.fillRect(0, 0, width, height);
      this.#context.drawImage(source, 0, 0, width, height);
      const { data } = this.#context.getImageData(0, 0, width, height);
      if (width * height > KEPT_PIXELS) this.#canvas = this.#context = null;
      return { data, width, height, channels: 4 };
    } catch (error) {
      this.#canvas = this.#context = null;
      throw new UnreadableImage(
        `${name} of ${width}x${height} is too much for this browser (${error.message}): expected a smaller image`,
      );
    }
  }
}

async function decoded(blob, name) {
  if (blob.size === 0) throw new UnreadableImage(`${name} is empty: expected an image`);
  if (blob.size > MAX_FILE_BYTES) throw new UnreadableImage(`${name} is too large: expected at most 1 GiB`);
  const kind = imageKind(new Uint8Array(await blob.slice(0, HEAD_BYTES).arrayBuffer()));
  if (!READABLE.includes(kind)) {
    const what = kind === null ? "is not an image" : `is ${kind}, which browsers do not read`;
    throw new UnreadableImage(`${name} ${what}: expected one of ${READABLE.join(", ")}`);
  }
  try {
    return await createImageBitmap(blob, { imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch {
    throw new UnreadableImage(`${name} is damaged and cannot be decoded: expected a whole ${kind} file`);
  }
}

/**
 * Lay straight alpha over white, in Pillow's numbers.
 *
 * @param {{data: Uint8ClampedArray, width: number, height: number}} image
 * @returns {Picture}
 */
export function overWhite({ data: from, width, height }) {
  const data = new Uint8Array(from);
  for (let at = 3; at < data.length; at += 4) {
    const share = data[at] * 128;
    if (share === 32640) continue;
    for (let c = at - 3; c < at; c += 1) {
      const mixed = data[c] * share + 255 * (32640 - share) + 16384;
      data[c] = ((mixed >> 8) + mixed) >> 15;
    }
  }
  return { data, width, height, channels: 4 };
}
