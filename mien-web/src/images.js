/**
 * Image decoding: upright pixels, blended with white, without colour management. Port of
 * mien.core.images; runs in the worker.
 *
 * @typedef {import("./pictures.js").Picture} Picture
 */

const MAX_PIXELS = 150_000_000;
const MAX_FILE_BYTES = 2 ** 30;
const MAX_CACHED_PIXELS = 4_000_000; // a larger canvas is released
const HEADER_BYTES = 64;
const MAX_NAME_LENGTH = 100;

// Formats that browsers decode, and file signatures.
const READABLE = ["JPEG", "PNG", "WEBP", "AVIF", "BMP", "GIF", "ICO"];
const SIGNATURES = [
  ["\xff\xd8\xff", "JPEG"], ["\x89PNG\r\n\x1a\n", "PNG"], ["GIF87a", "GIF"], ["GIF89a", "GIF"], ["BM", "BMP"],
  ["\0\0\x01\0", "ICO"], ["II*\0", "TIFF"], ["MM\0*", "TIFF"], ["\xff\x0a", "JPEG XL"], ["\0\0\0\x0cJXL ", "JPEG XL"],
  ["\xff\x4f\xff\x51", "JPEG 2000"], ["\0\0\0\x0cjP  ", "JPEG 2000"], ["8BPS", "Photoshop"], ["%PDF", "PDF"],
  ["<svg", "SVG"], ["\x1aE\xdf\xa3", "a video"],
];

/** An image cannot be read; the message is one line. */
export class UnreadableImage extends Error {}

/** Detect a file's format by its first bytes, such as "JPEG"; null if unknown. */
export function imageFormat(header) {
  const text = String.fromCharCode(...header.subarray(0, HEADER_BYTES));
  const match = SIGNATURES.find(([signature]) => text.startsWith(signature));
  if (match) return match[1];
  if (text.startsWith("RIFF")) return { "WEBP": "WEBP", "AVI ": "a video" }[text.slice(8, 12)] ?? null;
  if (text.slice(4, 8) !== "ftyp") return null;
  const brand = text.slice(8, 12);
  if (["avif", "avis", "mif1", "msf1"].includes(brand)) return "AVIF";
  return brand.startsWith("hei") || brand.startsWith("hev") ? "HEIC" : "a video";
}

/** Make a name printable for messages; a long one is shortened in the middle. */
export function printableName(name) {
  const text = String(name).replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, "�");
  return text.length <= MAX_NAME_LENGTH ? text : `${text.slice(0, 33)}…${text.slice(-66)}`;
}

/** Image decoder; images of the same size share one canvas. */
export class Decoder {
  #canvas = null;
  #context = null;

  /**
   * Decode an image.
   *
   * @param {Blob | ImageBitmap | ImageData | VideoFrame} image bitmaps and frames are closed
   * @param {string} name for messages
   * @returns {Promise<Picture>} with four channels, of which the fourth is ignored
   * @throws {UnreadableImage}
   */
  async pixels(image, name) {
    if (image instanceof ImageData) return overWhite(image);
    const source = image instanceof Blob ? await decodeBlob(image, name) : image;
    try {
      // VideoFrame names its size differently.
      const [width, height] = [source.displayWidth ?? source.width, source.displayHeight ?? source.height];
      if (!(width && height)) throw new UnreadableImage(`${name} has no pixels`);
      if (width * height > MAX_PIXELS) {
        throw new UnreadableImage(`${name} of ${width}x${height} is too large: expected at most 150 megapixels`);
      }
      return this.#draw(source, width, height, name);
    } finally {
      source.close();
    }
  }

  #draw(source, width, height, name) {
    try {
      if (this.#canvas?.width !== width || this.#canvas.height !== height) {
        this.#canvas = new OffscreenCanvas(width, height);
        this.#context = this.#canvas.getContext("2d", { willReadFrequently: true });
        this.#context.fillStyle = "white";
      }
      this.#context.fillRect(0, 0, width, height);
      this.#context.drawImage(source, 0, 0, width, height);
      const { data } = this.#context.getImageData(0, 0, width, height);
      if (width * height > MAX_CACHED_PIXELS) this.#canvas = this.#context = null;
      return { data, width, height, channels: 4 };
    } catch (error) {
      this.#canvas = this.#context = null;
      throw new UnreadableImage(
        `${name} of ${width}x${height} is too large for this browser (${error.message}): expected a smaller image`,
      );
    }
  }
}

async function decodeBlob(blob, name) {
  if (blob.size === 0) throw new UnreadableImage(`${name} is empty: expected an image`);
  if (blob.size > MAX_FILE_BYTES) throw new UnreadableImage(`${name} is too large: expected at most 1 GiB`);
  const format = imageFormat(new Uint8Array(await blob.slice(0, HEADER_BYTES).arrayBuffer()));
  if (!READABLE.includes(format)) {
    const reason = format === null ? "is not an image" : `is ${format}, which browsers do not read`;
    throw new UnreadableImage(`${name} ${reason}: expected one of ${READABLE.join(", ")}`);
  }
  try {
    return await createImageBitmap(blob, { imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch {
    throw new UnreadableImage(`${name} is damaged and cannot be decoded: expected a complete ${format} file`);
  }
}

/**
 * Blend straight alpha with white, with Pillow's rounding.
 *
 * @param {{data: Uint8ClampedArray, width: number, height: number}} image
 * @returns {Picture}
 */
export function overWhite({ data: from, width, height }) {
  const data = new Uint8Array(from);
  for (let at = 3; at < data.length; at += 4) {
    const alpha = data[at] * 128;
    if (alpha === 32640) continue;
    for (let c = at - 3; c < at; c += 1) {
      const mixed = data[c] * alpha + 255 * (32640 - alpha) + 16384;
      data[c] = ((mixed >> 8) + mixed) >> 15;
    }
  }
  return { data, width, height, channels: 4 };
}
