import assert from "node:assert/strict";
import test from "node:test";

import { argmax, probabilities, readingOf } from "../src/classifier.js";
import { decode } from "../src/detector.js";
import { occludedFaces, occlusion } from "../src/explain.js";
import { Decoder, imageFormat, printableName } from "../src/images.js";
import { roundEven } from "../src/pictures.js";
import { selectFaces, turnOf } from "../src/preprocess.js";
import { toFace, toResult } from "../src/results.js";
import { boxInImage, findFaces, overlap } from "../src/search.js";

const MANIFEST = {
  schema: "mien-model/1",
  name: "tiny",
  version: "1.0.0",
  labels: ["happy", "sad"],
  reading: "fer2013",
  outputs: { logits: "logits", features: "features" },
  temperature: 2,
  entropy_exponent: 0,
  bias: { sad: 0.5 },
  thresholds: { happy: 0.8 },
  readings: { people: { outputs: { logits: "people_logits" }, temperature: 1, bias: {}, thresholds: {} } },
  file: { name: "model.onnx", sha256: "ab", bytes: 3 },
};

const grey = (width, height) => ({ data: new Uint8Array(width * height * 3).fill(90), width, height, channels: 3 });

/** A detector that returns `rowsOf(picture, call number)` and records the sizes it was called with. */
function fakeDetector(rowsOf) {
  const seen = [];
  const detect = async (picture) => {
    seen.push([picture.width, picture.height]);
    return rowsOf(picture, seen.length);
  };
  return { detect, seen };
}

const row = (x, y, w, h, score) => [x, y, w, h, ...Array.from({ length: 10 }, (_, i) => (i % 2 ? y : x)), score];

test("rounding is half to even, as in Python", () => {
  assert.deepEqual([0.5, 1.5, 2.5, -0.5, -1.5, 2.4999, 7].map(roundEven), [0, 2, 2, 0, -2, 2, 7]);
});

test("a reading has its own outputs, temperature and thresholds", () => {
  const people = readingOf(MANIFEST);
  assert.deepEqual([people.labels, people.output, people.temperature, people.bias], ["people", "people_logits", 1, [0, 0]]);
  const own = readingOf(MANIFEST, "fer2013");
  assert.deepEqual([own.output, own.temperature, own.bias, own.thresholds], ["logits", 2, [0, 0.5], [0.8, 0]]);
});

test("a model without people's labels uses its first reading", () => {
  assert.equal(readingOf({ ...MANIFEST, reading: "own", readings: {} }).labels, "own");
});

test("an invalid manifest and unknown labels are refused with a one-line message", () => {
  for (const wrong of [null, {}, [], { schema: "other/1" }]) assert.throws(() => readingOf(wrong), /schema mien-model\/1/);
  assert.throws(() => readingOf(MANIFEST, "others"), /tiny 1\.0\.0 has no labels "others": expected fer2013 or people/);
  assert.throws(() => readingOf(MANIFEST, "toString"), /has no labels/);
});

test("probabilities sum to one, and logits that are not finite are refused", () => {
  const given = { bias: [0, 0, 0], temperature: 0.9, exponent: 0.3 };
  const sum = probabilities([1, 700, -800], given).reduce((one, other) => one + other);
  assert.ok(Math.abs(sum - 1) < 1e-6);
  assert.throws(() => probabilities([1, NaN, 2], given), /not a number/);
  assert.equal(argmax([1, 3, 3, 2]), 1);
});

test("a result has the keys of mien's JSON in their order", () => {
  const reading = readingOf(MANIFEST);
  const found = { box: { x: 1, y: 2, w: 30, h: 40 }, confidence: 0.98, landmarks: null, turn: 0 };
  const quality = { size_px: 30, blur: 0.12345678, flags: [] };
  const face = toFace(0, found, quality, Float32Array.of(0.25, 0.75), reading);
  assert.deepEqual(Object.keys(face), [
    "face_id", "track_id", "box", "face_confidence", "emotion", "confidence", "uncertain", "scores", "quality",
  ]);
  assert.deepEqual([face.emotion, face.confidence, face.quality.blur, face.uncertain], ["sad", 0.75, 0.123457, false]);
  const away = toFace(0, found, { ...quality, flags: ["turned_away"] }, Float32Array.of(0.25, 0.75), reading);
  assert.equal(away.uncertain, true);
  const result = toResult(reading, { width: 50, height: 60, faces: [face] });
  assert.deepEqual(Object.keys(result), [
    "schema", "source", "frame", "time_s", "status", "width", "height", "faces", "model", "labels",
  ]);
  assert.equal(toResult(reading, { width: 5, height: 6 }).status, "no_face");
});

test("small faces are ignored, and the largest are kept in their order", () => {
  const sides = [40, 10, 60, 50];
  const found = sides.map((side, x) => ({ box: { x, y: 0, w: side, h: side }, confidence: 0.9 }));
  const xs = (choice) => selectFaces(found, { minFace: 0, maxFaces: null, ...choice }).map(({ box }) => box.x);
  assert.deepEqual(xs({}), [0, 1, 2, 3]);
  assert.deepEqual(xs({ minFace: 40 }), [0, 2, 3]);
  assert.deepEqual(xs({ maxFaces: 2 }), [2, 3]);
});

test("a large face is found at half the size, without a search at full size", async () => {
  const { detect, seen } = fakeDetector(() => [row(100, 50, 80, 90, 0.95)]);
  const [face] = await findFaces(grey(1280, 960), detect);
  assert.deepEqual(seen, [[320, 240]]);
  assert.deepEqual(face.box, { x: 400, y: 200, w: 320, h: 360 });
  assert.equal(face.turn, 0);
});

test("a hint of a small face leads to a search at full size", async () => {
  const { detect, seen } = fakeDetector(({ width }) => (width === 320 ? [row(10, 10, 15, 15, 0.3)] : [row(20, 20, 30, 30, 0.93)]));
  const faces = await findFaces(grey(640, 480), detect);
  assert.deepEqual(seen, [[320, 240], [640, 480]]);
  assert.deepEqual(faces.map(({ box }) => box), [{ x: 20, y: 20, w: 30, h: 30 }]);
});

test("without a face, all orientations are searched", async () => {
  const { detect, seen } = fakeDetector(() => []);
  assert.deepEqual(await findFaces(grey(640, 400), detect), []);
  assert.deepEqual(seen, [[320, 200], [640, 400], [200, 320], [320, 200], [200, 320]]);
});

test("duplicates keep the most confident box, and faces are sorted left to right", async () => {
  const { detect } = fakeDetector(() => [row(200, 20, 60, 60, 0.95), row(30, 20, 60, 60, 0.92), row(34, 22, 60, 60, 0.99)]);
  const faces = await findFaces(grey(320, 240), detect);
  assert.deepEqual(faces.map(({ box, confidence }) => [box.x, confidence]), [[34, 0.99], [200, 0.95]]);
});

test("boxes are clipped to the image, and those outside are dropped", () => {
  assert.deepEqual(boxInImage([-5, -5, 30, 30], 1, { width: 20, height: 10 }), { x: 0, y: 0, w: 20, h: 10 });
  assert.equal(boxInImage([50, 5, 30, 30], 1, { width: 20, height: 10 }), null);
  assert.equal(overlap({ x: 0, y: 0, w: 10, h: 10 }, { x: 5, y: 0, w: 10, h: 10 }), 1 / 3);
});

test("cells are decoded to boxes without duplicates", () => {
  const cells = 8 * 8 + 4 * 4 + 2 * 2;
  const [scores, offsets] = [new Float32Array(cells), new Float32Array(14 * cells)];
  for (const [cell, score] of [[9, 0.9], [10, 0.8], [64 + 5, 0.3], [80 + 3, 0.1]]) {
    scores[cell] = score;
    offsets[2 * cells + cell] = offsets[3 * cells + cell] = Math.log(3);
  }
  const rows = decode(scores, offsets, 64, 50);
  assert.deepEqual(rows.map((each) => [...each.slice(0, 4), each[14]]), [
    [-4, -4, 24, 24, 0.9], [-8, -8, 48, 48, 0.3],
  ]);
});

test("by default, faces are levelled from ten degrees on", () => {
  const leaning = (degrees) => {
    const [sine, cosine] = [Math.sin, Math.cos].map((each) => each((degrees * Math.PI) / 180));
    return [[-20, -20], [20, -20], [0, 0], [-15, 20], [15, 20]].map(([x, y]) => [x * cosine - y * sine, x * sine + y * cosine]);
  };
  assert.equal(turnOf(leaning(8), "auto", 0), 0);
  assert.ok(Math.abs(turnOf(leaning(12), "auto", 0) - 12) < 1e-9);
  assert.ok(Math.abs(turnOf(leaning(8), "on", 0) - 8) < 1e-9);
  assert.equal(turnOf(leaning(40), "off", 90), 90);
  assert.equal(turnOf(null, "on", 180), 180);
});

test("occlusion finds the only relevant region", async () => {
  const face = new Uint8Array(48 * 48).fill(100);
  face.fill(250, 10 * 48 + 30, 10 * 48 + 34);
  const classify = async (faces) => faces.map((each) => Float32Array.of(each[10 * 48 + 31] / 255, 0));
  const { values, emotion, peak } = await occlusion(face, classify);
  const hottest = values.indexOf(1);
  assert.equal(emotion, 0);
  assert.ok(peak > 0.3);
  assert.ok(Math.abs(Math.floor(hottest / 48) - 10) <= 6 && Math.abs((hottest % 48) - 31) <= 6);
  assert.equal(occludedFaces(face).length, 196);
});

test("a face without relevant regions has a map of zeros", async () => {
  const { values, peak } = await occlusion(new Uint8Array(48 * 48), async (faces) => faces.map(() => Float32Array.of(0.5, 0.5)));
  assert.equal(peak, 0);
  assert.ok(values.every((value) => value === 0));
});

test("formats are detected by signature, and long names are shortened", () => {
  const kind = (text) => imageFormat(Uint8Array.from(text, (letter) => letter.charCodeAt(0)));
  assert.deepEqual(
    ["\xff\xd8\xff\xe0", "RIFF1234WEBPVP8 ", "\0\0\0\x1cftypavif", "\0\0\0\x1cftypmif1", "\0\0\0\x18ftypheic", "\0\0\0\x18ftypisom", "text", ""].map(kind),
    ["JPEG", "WEBP", "AVIF", "AVIF", "HEIC", "a video", null, null],
  );
  assert.equal(printableName("a\nb"), "a�b");
  assert.equal(printableName("n".repeat(500)).length, 100);
});

test("pictures without pixels, or with too many, are unreadable", async () => {
  globalThis.ImageData = class {};
  const closed = [];
  const picture = (width, height) => ({ width, height, close: () => closed.push(width) });
  const decoder = new Decoder();
  await assert.rejects(decoder.pixels(picture(20_000, 8_000), "a.png"), /a\.png of 20000x8000 is too large: expected at most 150 megapixels/);
  await assert.rejects(decoder.pixels(picture(0, 8), "a.png"), /a\.png has no pixels/);
  assert.deepEqual(closed, [20_000, 0]);
});
