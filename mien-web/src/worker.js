/** Reads images off the page's thread: one request after another, in their order. */

import { classifierOf, readingOf } from "./classifier.js";
import { NO_DETECTOR, libface } from "./detector.js";
import { occlusion } from "./explain.js";
import { Decoder, UnreadableImage, shown } from "./images.js";
import { chosen, cutFace, turnOf } from "./preprocess.js";
import { qualityOf } from "./quality.js";
import { faceOf, resultOf } from "./results.js";
import { fetchFile, loadRuntime, oneLine } from "./runtime.js";
import { overlap } from "./search.js";

const decoder = new Decoder();
let [reading, classify, detector] = [null, null, null];

const REQUESTS = { open, analyze, explain };
const dropped = new Set(); // numbers of requests that nobody waits for any more
let queue = Promise.resolve();

self.onmessage = ({ data: { id, kind, ...request } }) => {
  if (kind === "drop") {
    dropped.add(id);
    return;
  }
  queue = queue.then(async () => {
    if (dropped.delete(id)) {
      request.image?.close?.();
      return;
    }
    try {
      const [value, transfer] = await REQUESTS[kind](request);
      self.postMessage({ id, value }, transfer ?? []);
    } catch (error) {
      self.postMessage({ id, error: oneLine(error) });
    } finally {
      dropped.delete(id);
    }
  });
};

/** Fetch and open everything. */
async function open({ model, labels, detector: name, detectorFile, runtime, threads }) {
  const manifest = await fetchFile(new URL("manifest.json", model).href);
  reading = readingOf(parsed(manifest, model), labels);
  const files = [new URL(`${reading.labels}.onnx`, model).href, ...(name === "none" ? [] : [detectorFile])];
  const totals = files.map(() => 0);
  let loaded = 0;
  const fetched = files.map((url, index) =>
    fetchFile(url, (part, whole) => {
      loaded += part;
      totals[index] = whole;
      const total = totals.every(Boolean) ? totals.reduce((one, other) => one + other) : 0;
      self.postMessage({ progress: { loaded, total } });
    }),
  );
  const [openNetwork, ...contents] = await Promise.all([loadRuntime(runtime, threads), ...fetched]);
  const networks = [];
  // One after the other: the runtime starts with the first.
  for (const [index, content] of contents.entries()) {
    try {
      networks.push(await openNetwork(content));
    } catch (error) {
      throw new Error(`${files[index]} is no network that can be run (${oneLine(error)})`);
    }
  }
  classify = classifierOf(networks[0], reading);
  detector = name === "none" ? NO_DETECTOR : libface(networks[1]);
  await classify([new Uint8Array(48 * 48)]); // the first run is slower
  return [reading];
}

function parsed(content, model) {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(content));
  } catch {
    throw new Error(`${model}manifest.json is damaged: it is not JSON in UTF-8`);
  }
}

/** The result of an image, and the turn of each of its faces. */
async function analyze({ image, source, minFace, maxFaces, align }) {
  let pixels;
  try {
    pixels = await decoder.pixels(image, shown(source ?? "image"));
  } catch (error) {
    if (!(error instanceof UnreadableImage)) throw error;
    return [{ result: resultOf(reading, { source, status: "unreadable", error: error.message }), turns: [] }];
  }
  const { width, height } = pixels;
  const found = chosen(await detector.detect(pixels), { minFace, maxFaces });
  const turns = found.map((one) => turnOfFace(one, align));
  const crops = found.map(({ box }, index) => cutFace(pixels, box, detector.cropScale, turns[index]));
  const scores = await classify(crops);
  const faces = found.map((one, index) =>
    faceOf(index, one, qualityOf(crops[index], one.box, one.landmarks), scores[index], reading),
  );
  return [{ result: resultOf(reading, { source, width, height, faces }), turns }];
}

function turnOfFace({ landmarks, turn }, align) {
  return detector.cropScale === null ? 0 : turnOf(landmarks, align, turn);
}

/** What speaks for an emotion in a face of an image. */
async function explain({ image, box, turn, emotion, align }) {
  const pixels = await decoder.pixels(image, "image");
  const leaning = turn ?? (await turnAt(pixels, box, align));
  const crop = cutFace(pixels, box, detector.cropScale, leaning);
  const found = await occlusion(crop, classify, emotion === null ? null : reading.emotions.indexOf(emotion));
  const side = detector.cropScale === null ? null : detector.cropScale * Math.sqrt(box.w * box.h);
  const square = { x: box.x + box.w / 2, y: box.y + box.h / 2, w: side ?? box.w, h: side ?? box.h, turn: leaning };
  const value = { size: 48, values: found.values, emotion: reading.emotions[found.emotion], peak: found.peak, square };
  return [value, [found.values.buffer]];
}

/** The turn of a face of which only the box is known: that of the face found there. */
async function turnAt(pixels, box, align) {
  const found = await detector.detect(pixels);
  const best = found.reduce((one, other) => (overlap(one.box, box) >= overlap(other.box, box) ? one : other), found[0]);
  return best && overlap(best.box, box) > 0.5 ? turnOfFace(best, align) : 0;
}
