/** Worker that analyses images: handles requests one at a time, in order. */

import { classifierOf, readingOf } from "./classifier.js";
import { NO_DETECTOR, libface } from "./detector.js";
import { occlusion } from "./explain.js";
import { Decoder, UnreadableImage, printableName } from "./images.js";
import { cropFace, selectFaces, turnOf } from "./preprocess.js";
import { qualityOf } from "./quality.js";
import { toFace, toResult } from "./results.js";
import { fetchFile, loadRuntime, oneLine } from "./runtime.js";
import { overlap } from "./search.js";

const decoder = new Decoder();
let [reading, classify, detector] = [null, null, null];

const REQUESTS = { open, analyze, explain };
const cancelled = new Set(); // ids of requests
let queue = Promise.resolve();

self.onmessage = ({ data: { id, kind, ...request } }) => {
  if (kind === "cancel") {
    cancelled.add(id);
    return;
  }
  queue = queue.then(async () => {
    if (cancelled.delete(id)) {
      request.image?.close?.();
      return;
    }
    try {
      const [value, transfer] = await REQUESTS[kind](request);
      self.postMessage({ id, value }, transfer ?? []);
    } catch (error) {
      self.postMessage({ id, error: oneLine(error) });
    } finally {
      cancelled.delete(id);
    }
  });
};

/** Download and initialize the networks. */
async function open({ model, labels, detector: name, detectorFile, runtime, threads }) {
  const manifest = await fetchFile(new URL("manifest.json", model).href);
  reading = readingOf(parseManifest(manifest, model), labels);
  const files = [new URL(`${reading.labels}.onnx`, model).href, ...(name === "none" ? [] : [detectorFile])];
  const totals = files.map(() => 0);
  let loaded = 0;
  const downloads = files.map((url, index) =>
    fetchFile(url, (bytes, fileTotal) => {
      loaded += bytes;
      totals[index] = fileTotal;
      const total = totals.every(Boolean) ? totals.reduce((a, b) => a + b) : 0;
      self.postMessage({ progress: { loaded, total } });
    }),
  );
  const [openNetwork, ...contents] = await Promise.all([loadRuntime(runtime, threads), ...downloads]);
  const networks = [];
  // Sequentially, because the first one initializes the runtime.
  for (const [index, content] of contents.entries()) {
    try {
      networks.push(await openNetwork(content));
    } catch (error) {
      throw new Error(`${files[index]} is not a network that can be run (${oneLine(error)})`);
    }
  }
  classify = classifierOf(networks[0], reading);
  detector = name === "none" ? NO_DETECTOR : libface(networks[1]);
  await classify([new Uint8Array(48 * 48)]); // the first run is slower
  return [reading];
}

function parseManifest(content, model) {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(content));
  } catch {
    throw new Error(`${model}manifest.json is damaged: it is not JSON in UTF-8`);
  }
}

/** Analyse an image; return its result and the rotation of each face. */
async function analyze({ image, source, minFace, maxFaces, align }) {
  let pixels;
  try {
    pixels = await decoder.pixels(image, printableName(source ?? "image"));
  } catch (error) {
    if (!(error instanceof UnreadableImage)) throw error;
    return [{ result: toResult(reading, { source, status: "unreadable", error: error.message }), turns: [] }];
  }
  const { width, height } = pixels;
  const detections = selectFaces(await detector.detect(pixels), { minFace, maxFaces });
  const turns = detections.map((detection) => turnOfFace(detection, align));
  const crops = detections.map(({ box }, index) => cropFace(pixels, box, detector.cropScale, turns[index]));
  const scores = await classify(crops);
  const faces = detections.map((detection, index) =>
    toFace(index, detection, qualityOf(crops[index], detection.box, detection.landmarks), scores[index], reading),
  );
  return [{ result: toResult(reading, { source, width, height, faces }), turns }];
}

function turnOfFace({ landmarks, turn }, align) {
  return detector.cropScale === null ? 0 : turnOf(landmarks, align, turn);
}

/** Compute the occlusion map of a face. */
async function explain({ image, box, turn, emotion, align }) {
  const pixels = await decoder.pixels(image, "image");
  const faceTurn = turn ?? (await turnAt(pixels, box, align));
  const crop = cropFace(pixels, box, detector.cropScale, faceTurn);
  const map = await occlusion(crop, classify, emotion === null ? null : reading.emotions.indexOf(emotion));
  const side = detector.cropScale === null ? null : detector.cropScale * Math.sqrt(box.w * box.h);
  const square = { x: box.x + box.w / 2, y: box.y + box.h / 2, w: side ?? box.w, h: side ?? box.h, turn: faceTurn };
  const value = { size: 48, values: map.values, emotion: reading.emotions[map.emotion], peak: map.peak, square };
  return [value, [map.values.buffer]];
}

/** Rotation of a face known only by its box: that of the face detected there. */
async function turnAt(pixels, box, align) {
  const detections = await detector.detect(pixels);
  const best = detections.reduce((a, b) => (overlap(a.box, box) >= overlap(b.box, box) ? a : b), detections[0]);
  return best && overlap(best.box, box) > 0.5 ? turnOfFace(best, align) : 0;
}
