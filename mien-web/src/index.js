/**
 * Reads faces and their emotions in the browser: no picture leaves the machine.
 *
 *     const recognizer = await loadRecognizer({ model: "models/mien-nano/", runtime: "onnxruntime-web/dist/" });
 *     const result = await recognizer.analyze(file);
 *
 * @module mien-web
 */

import { shown } from "./images.js";
import { ALIGN } from "./preprocess.js";
import { resultOf } from "./results.js";

export { EMOTIONS, UNPLEASANT, valence } from "./analysis/emotions.js";

/** A colour for each emotion, mien's own. */
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
const FOREIGN = "comes from another site that does not share it: expected crossorigin on the element, and CORS there";
// What a browser calls the reasons for which an image cannot be sent to the worker.
const UNREADABLE = {
  DataCloneError: FOREIGN,
  SecurityError: FOREIGN,
  InvalidStateError: "shows no picture: expected one that has been loaded",
};
const MOST_THREADS = 4;

/**
 * Load a model, a face detector and the runtime in a worker.
 *
 * @param {object} [options]
 * @param {string} [options.model] URL of the model's folder: `manifest.json` and `<labels>.onnx`
 * @param {string} [options.labels] "people" or "fer2013"; "people" unless given, where the model has it
 * @param {string} [options.detector] "libface" or "none" (images are face crops)
 * @param {string} [options.detectorFile] URL of `libface.onnx`; beside the model's folder unless given
 * @param {string} [options.runtime] URL of the folder with onnxruntime-web's files
 * @param {number} [options.threads] of one call; more than one needs a page that is cross-origin isolated
 * @param {(state: {loaded: number, total: number}) => void} [options.onProgress] bytes of the networks;
 *   total is 0 where the server does not say
 * @returns {Promise<Recognizer>}
 * @throws {Error} of one line
 */
export async function loadRecognizer(options = {}) {
  const { labels, detector = DETECTORS[0], onProgress = () => {} } = options;
  if (!DETECTORS.includes(detector)) throw new Error(`expected a detector of ${DETECTORS.join(" or ")}, got ${quoted(detector)}`);
  const model = folderUrl(options.model ?? new URL("models/mien-nano/", import.meta.url));
  const runtime = folderUrl(options.runtime ?? new URL("runtime/", import.meta.url));
  const detectorFile = new URL(options.detectorFile ?? new URL("../libface.onnx", model), document.baseURI).href;
  const threads = threadsFor(options.threads);
  const client = new Client(onProgress);
  try {
    const reading = await client.ask({ kind: "open", model, labels, detector, detectorFile, runtime, threads });
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
  if (threads !== undefined) wholeNumber("threads", threads, 1);
  if (!globalThis.crossOriginIsolated) return 1;
  return threads ?? Math.max(1, Math.min(MOST_THREADS, Math.floor(navigator.hardwareConcurrency / 2)));
}

/** Finds faces and reads their emotions. Calls are answered in their order. */
class Recognizer {
  #client;
  #reading;
  #turns = new WeakMap(); // of faces that were given out: by how much their crops were turned back

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
   *   left as it is
   * @param {object} [options]
   * @param {string} [options.source] the image's name in its result; that of a File unless given
   * @param {number} [options.minFace] leave out faces whose box has a smaller side, in pixels
   * @param {number} [options.maxFaces] read only so many, the largest
   * @param {string} [options.align] level the eyes: "auto" (of faces that lean far), "on" or "off"
   * @param {AbortSignal} [options.signal] gives the call up
   * @returns {Promise<object>} mien's JSON; an image that cannot be read has the status "unreadable"
   */
  async analyze(image, options = {}) {
    const { minFace = 0, maxFaces = null, align = ALIGN[0], signal } = options;
    wholeNumber("minFace", minFace, 0);
    if (maxFaces !== null) wholeNumber("maxFaces", maxFaces, 1);
    checkAlign(align);
    signal?.throwIfAborted();
    const source = options.source ?? (image instanceof globalThis.Blob && image.name ? image.name : null);
    try {
      const [sent, transfer] = await sendable(image);
      const request = { kind: "analyze", image: sent, source, minFace, maxFaces, align };
      const { result, turns } = await this.#client.ask(request, transfer, signal);
      result.faces.forEach((face, index) => this.#turns.set(face, turns[index]));
      return result;
    } catch (error) {
      const why = UNREADABLE[error?.name];
      if (why === undefined) throw error;
      const name = shown(source ?? "image");
      return resultOf(this.#reading, { source, status: "unreadable", error: `${name} ${why}` });
    }
  }

  /**
   * Say what in a face speaks for an emotion: where covering it costs most of the score.
   *
   * @param {Parameters<Recognizer["analyze"]>[0]} image
   * @param {object} face of `analyze`'s result for that image
   * @param {object} [options]
   * @param {string} [options.emotion] the face's likeliest unless given
   * @param {string} [options.align] as it was for `analyze`
   * @param {AbortSignal} [options.signal]
   * @returns {Promise<{size: 48, values: Float32Array, emotion: string, peak: number, square: object}>}
   */
  async explain(image, face, options = {}) {
    const { emotion = null, align = ALIGN[0], signal } = options;
    checkAlign(align);
    if (!face?.box) throw new TypeError("expected a face of analyze's result");
    if (emotion !== null && !this.emotions.includes(emotion)) {
      throw new RangeError(`unknown emotion ${quoted(emotion)}: expected one of ${this.emotions.join(", ")}`);
    }
    signal?.throwIfAborted();
    const [sent, transfer] = await sendable(image);
    const request = { kind: "explain", image: sent, box: face.box, turn: this.#turns.get(face) ?? null, emotion, align };
    return this.#client.ask(request, transfer, signal);
  }

  /** End the worker; calls that have not been answered reject. */
  close() {
    this.#client.close();
  }
}

function checkAlign(align) {
  if (!ALIGN.includes(align)) throw new RangeError(`expected align=${ALIGN.map(quoted).join(", ")}, got ${quoted(align)}`);
}

function wholeNumber(what, value, least) {
  if (!Number.isInteger(value) || value < least) {
    throw new RangeError(`expected ${what} as a whole number of ${least} or more, got ${quoted(value)}`);
  }
}

function quoted(value) {
  return typeof value === "string" ? `"${value.slice(0, 60)}"` : String(value);
}

/** An image as it is sent to the worker, and what of it is transferred; rejects with what a browser says. */
async function sendable(image) {
  if (image instanceof Blob || image instanceof ImageData) return [image, []];
  if (globalThis.VideoFrame && image instanceof VideoFrame) {
    const frame = image.clone();
    return [frame, [frame]];
  }
  const kinds = ["ImageBitmap", "HTMLImageElement", "HTMLCanvasElement", "OffscreenCanvas", "HTMLVideoElement"];
  if (!kinds.some((kind) => globalThis[kind] && image instanceof globalThis[kind])) {
    const got = image === null ? "null" : (image?.constructor?.name ?? typeof image);
    throw new TypeError(`expected an image as a Blob, File, ImageData, VideoFrame, ${kinds.join(", ")}, got ${got}`);
  }
  const bitmap = await createImageBitmap(image, {
    imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none",
  });
  return [bitmap, [bitmap]];
}

// ---------------------------------------------------------------- the worker
/** Asks the worker, and gives each answer to who asked. */
class Client {
  #worker;
  #waiting = new Map();
  #count = 0;
  #ended = null;

  constructor(onProgress) {
    this.#worker = startWorker();
    this.#worker.onmessage = ({ data }) => {
      if (data.progress) onProgress(data.progress);
      else this.#settle(data);
    };
    this.#worker.onerror = (event) => {
      event.preventDefault();
      this.#end(new Error(`the worker failed (${event.message ?? "it cannot be loaded"})`));
    };
  }

  ask(request, transfer = [], signal = undefined) {
    if (this.#ended) return Promise.reject(this.#ended);
    const id = (this.#count += 1);
    return new Promise((resolve, reject) => {
      const stop = () => {
        this.#waiting.delete(id);
        this.#worker.postMessage({ id, kind: "drop" });
        reject(signal.reason);
      };
      this.#worker.postMessage({ id, ...request }, transfer);
      if (signal?.aborted) return stop();
      signal?.addEventListener("abort", stop, { once: true });
      const done = () => signal?.removeEventListener("abort", stop);
      this.#waiting.set(id, { resolve, reject, done });
      return undefined;
    });
  }

  close() {
    this.#end(new Error("the recognizer is closed: load another one"));
  }

  #settle({ id, value, error }) {
    const asked = this.#waiting.get(id);
    if (!asked) return; // given up
    this.#waiting.delete(id);
    asked.done();
    if (error === undefined) asked.resolve(value);
    else asked.reject(new Error(error));
  }

  #end(error) {
    this.#ended ??= error;
    this.#worker.terminate();
    for (const { reject, done } of this.#waiting.values()) {
      done();
      reject(this.#ended);
    }
    this.#waiting.clear();
  }
}

function startWorker() {
  const own = new URL("./worker.js", import.meta.url);
  if (own.origin === location.origin) return new Worker(new URL("./worker.js", import.meta.url), { type: "module", name: "mien-web" });
  // A worker's own file has to be of the page's site; what it imports need not.
  const content = new Blob([`import ${JSON.stringify(own.href)};`], { type: "text/javascript" });
  const address = URL.createObjectURL(content);
  const worker = new Worker(address, { type: "module", name: "mien-web" });
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
  return worker;
}
