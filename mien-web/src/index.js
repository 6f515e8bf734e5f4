/**
 * Facial emotion recognition in the browser; no picture leaves the machine.
 *
 *     const recognizer = await loadRecognizer({ model: "models/mien-nano/", runtime: "onnxruntime-web/dist/" });
 *     const result = await recognizer.analyze(file);
 *
 * @module mien-web
 */

import { printableName } from "./images.js";
import { ALIGN } from "./preprocess.js";
import { toResult } from "./results.js";

export { EMOTIONS, UNPLEASANT, valence } from "./analysis/emotions.js";

/** mien's colour of each emotion. */
export const PALETTE = Object.freeze({
  angry: "#e4572e",
  disgust: "#7fae3d",
  fear: "#a06be8",
  happy: "#f6c026",
  neutral: "#aab4be",
  sad: "#4c93e6",
  surprise: "#22bfb1",
});

const DETECTORS = ["libface", "none"];
const CROSS_ORIGIN = "comes from another site that does not share it: expected crossorigin on the element, and CORS headers from that site";
// Errors of browsers for images that cannot be sent to the worker.
const UNREADABLE = {
  DataCloneError: CROSS_ORIGIN,
  SecurityError: CROSS_ORIGIN,
  InvalidStateError: "has no picture: expected one that has been loaded",
};
const MAX_THREADS = 4;

/**
 * Load a model, a face detector and the runtime in a worker.
 *
 * @param {object} [options]
 * @param {string} [options.model] URL of the folder with `manifest.json` and `<labels>.onnx`
 * @param {string} [options.labels] "people" or "fer2013"; "people" by default if the model has it
 * @param {string} [options.detector] "libface" or "none" (images are face crops)
 * @param {string} [options.detectorFile] URL of `libface.onnx`; by default next to the model's folder
 * @param {string} [options.runtime] URL of the folder with onnxruntime-web's files
 * @param {number} [options.threads] more than one needs a cross-origin isolated page
 * @param {(state: {loaded: number, total: number}) => void} [options.onProgress] receives the bytes
 *   loaded; `total` is 0 if unknown
 * @returns {Promise<Recognizer>}
 * @throws {Error} with a one-line message
 */
export async function loadRecognizer(options = {}) {
  const { labels, detector = DETECTORS[0], onProgress = () => {} } = options;
  if (!DETECTORS.includes(detector)) throw new Error(`expected a detector of ${DETECTORS.join(" or ")}, got ${quote(detector)}`);
  const model = folderUrl(options.model ?? new URL("models/mien-nano/", import.meta.url));
  const runtime = folderUrl(options.runtime ?? new URL("runtime/", import.meta.url));
  const detectorFile = new URL(options.detectorFile ?? new URL("../libface.onnx", model), document.baseURI).href;
  const threads = threadsFor(options.threads);
  const client = new Client(onProgress);
  try {
    const reading = await client.request({ kind: "open", model, labels, detector, detectorFile, runtime, threads });
    return new Recognizer(client, reading, { detector, threads });
  } catch (error) {
    client.close();
    throw error;
  }
}

function folderUrl(folder) {
  const url = new URL(folder, document.baseURI).href;
  return url.endsWith("/") ? url : `${url}/`;
}

function threadsFor(threads) {
  if (threads !== undefined) checkInteger("threads", threads, 1);
  if (!globalThis.crossOriginIsolated || !globalThis.SharedArrayBuffer) return 1; // WebKitGTK has none
  return threads ?? Math.max(1, Math.min(MAX_THREADS, Math.floor(navigator.hardwareConcurrency / 2)));
}

/** Face detection and emotion recognition. Calls are answered in order. */
class Recognizer {
  #client;
  #reading;
  #turns = new WeakMap(); // face of a result → rotation of its crop in degrees

  constructor(client, reading, { detector, threads }) {
    this.#client = client;
    this.#reading = reading;
    this.model = reading.model;
    this.labels = reading.labels;
    this.emotions = reading.emotions;
    this.detector = detector;
    this.threads = threads;
  }

  /**
   * Find the faces in an image and read their emotions.
   *
   * @param {Blob|File|ImageBitmap|ImageData|HTMLImageElement|HTMLCanvasElement|OffscreenCanvas|HTMLVideoElement|VideoFrame} image
   *   is not modified
   * @param {object} [options]
   * @param {string} [options.source] name of the image in the result; by default that of a File
   * @param {number} [options.minFace] ignore faces whose box has a smaller side, in pixels
   * @param {number} [options.maxFaces] read only the largest faces, up to this number
   * @param {string} [options.align] level the eyes: "auto" (if a face leans far), "on" or "off"
   * @param {AbortSignal} [options.signal] cancels the call
   * @returns {Promise<object>} mien's JSON; an image that cannot be read has the status "unreadable"
   */
  async analyze(image, options = {}) {
    const { minFace = 0, maxFaces = null, align = ALIGN[0], signal } = options;
    checkInteger("minFace", minFace, 0);
    if (maxFaces !== null) checkInteger("maxFaces", maxFaces, 1);
    checkAlign(align);
    signal?.throwIfAborted();
    const source = options.source ?? (image instanceof globalThis.Blob && image.name ? image.name : null);
    try {
      const [sent, transfer] = await toSendable(image);
      const request = { kind: "analyze", image: sent, source, minFace, maxFaces, align };
      const { result, turns } = await this.#client.request(request, transfer, signal);
      result.faces.forEach((face, index) => this.#turns.set(face, turns[index]));
      return result;
    } catch (error) {
      const reason = UNREADABLE[error?.name];
      if (reason === undefined) throw error;
      const name = printableName(source ?? "image");
      return toResult(this.#reading, { source, status: "unreadable", error: `${name} ${reason}` });
    }
  }

  /**
   * Compute the occlusion map of a face: where covering it lowers the score of an emotion most.
   *
   * @param {Parameters<Recognizer["analyze"]>[0]} image
   * @param {object} face from the result of `analyze` for that image
   * @param {object} [options]
   * @param {string} [options.emotion] by default the most likely one
   * @param {string} [options.align] the same as for `analyze`
   * @param {AbortSignal} [options.signal]
   * @returns {Promise<{size: 48, values: Float32Array, emotion: string, peak: number, square: object}>}
   */
  async explain(image, face, options = {}) {
    const { emotion = null, align = ALIGN[0], signal } = options;
    checkAlign(align);
    if (!face?.box) throw new TypeError("expected a face from a result of analyze");
    if (emotion !== null && !this.emotions.includes(emotion)) {
      throw new RangeError(`unknown emotion ${quote(emotion)}: expected one of ${this.emotions.join(", ")}`);
    }
    signal?.throwIfAborted();
    const [sent, transfer] = await toSendable(image);
    const request = { kind: "explain", image: sent, box: face.box, turn: this.#turns.get(face) ?? null, emotion, align };
    return this.#client.request(request, transfer, signal);
  }

  /** Stop the worker; pending calls reject. */
  close() {
    this.#client.close();
  }
}

function checkAlign(align) {
  if (!ALIGN.includes(align)) throw new RangeError(`expected align=${ALIGN.map(quote).join(", ")}, got ${quote(align)}`);
}

function checkInteger(name, value, min) {
  if (!Number.isInteger(value) || value < min) {
    throw new RangeError(`expected ${name} as a whole number of ${min} or more, got ${quote(value)}`);
  }
}

function quote(value) {
  return typeof value === "string" ? `"${value.slice(0, 60)}"` : String(value);
}

/** Convert an image for the worker; return it with its transfer list. Rejects with the browser's error. */
async function toSendable(image) {
  if (image instanceof Blob || image instanceof ImageData) return [image, []];
  if (globalThis.VideoFrame && image instanceof VideoFrame) {
    const frame = image.clone();
    return [frame, [frame]];
  }
  const types = ["ImageBitmap", "HTMLImageElement", "HTMLCanvasElement", "OffscreenCanvas", "HTMLVideoElement"];
  if (!types.some((type) => globalThis[type] && image instanceof globalThis[type])) {
    const got = image === null ? "null" : (image?.constructor?.name ?? typeof image);
    throw new TypeError(`expected an image as a Blob, File, ImageData, VideoFrame, ${types.join(", ")}, got ${got}`);
  }
  const bitmap = await createImageBitmap(image, {
    imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none",
  });
  return [bitmap, [bitmap]];
}

// ---------------------------------------------------------------- the worker
/** Request/response protocol over the worker's messages. */
class Client {
  #worker;
  #pending = new Map(); // id → {resolve, reject, cleanUp}
  #count = 0;
  #error = null; // set once the worker has stopped

  constructor(onProgress) {
    this.#worker = startWorker();
    this.#worker.onmessage = ({ data }) => {
      if (data.progress) onProgress(data.progress);
      else this.#settle(data);
    };
    this.#worker.onerror = (event) => {
      event.preventDefault();
      this.#stop(new Error(`the worker failed (${event.message ?? "it cannot be loaded"})`));
    };
  }

  request(message, transfer = [], signal = undefined) {
    if (this.#error) return Promise.reject(this.#error);
    const id = (this.#count += 1);
    return new Promise((resolve, reject) => {
      const cancel = () => {
        this.#pending.delete(id);
        this.#worker.postMessage({ id, kind: "cancel" });
        reject(signal.reason);
      };
      this.#worker.postMessage({ id, ...message }, transfer);
      if (signal?.aborted) return cancel();
      signal?.addEventListener("abort", cancel, { once: true });
      const cleanUp = () => signal?.removeEventListener("abort", cancel);
      this.#pending.set(id, { resolve, reject, cleanUp });
      return undefined;
    });
  }

  close() {
    this.#stop(new Error("the recognizer is closed: load another one"));
  }

  #settle({ id, value, error }) {
    const call = this.#pending.get(id);
    if (!call) return; // cancelled
    this.#pending.delete(id);
    call.cleanUp();
    if (error === undefined) call.resolve(value);
    else call.reject(new Error(error));
  }

  #stop(error) {
    this.#error ??= error;
    this.#worker.terminate();
    for (const { reject, cleanUp } of this.#pending.values()) {
      cleanUp();
      reject(this.#error);
    }
    this.#pending.clear();
  }
}

function startWorker() {
  const script = new URL("./worker.js", import.meta.url);
  if (script.origin === location.origin) return new Worker(new URL("./worker.js", import.meta.url), { type: "module", name: "mien-web" });
  // A worker's script must be same-origin; its imports need not be.
  const content = new Blob([`import ${JSON.stringify(script.href)};`], { type: "text/javascript" });
  const url = URL.createObjectURL(content);
  const worker = new Worker(url, { type: "module", name: "mien-web" });
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
  return worker;
}
