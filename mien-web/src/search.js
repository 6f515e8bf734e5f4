/**
 * Where faces are looked for in an image: scales and orientations, as mien.inference.detectors.
 *
 * Coarse to fine: half the size comes first, which is a quarter of the work; the whole size is
 * searched where that may show more. Networks find many lying faces as if they were upright, with
 * less confidence; so unsure faces are checked in all four orientations.
 *
 * @typedef {import("./pictures.js").Picture} Picture
 * @typedef {{x: number, y: number, w: number, h: number}} Box
 * @typedef {[number, number][]} Landmarks eyes, tip of the nose, corners of the mouth (the person's
 *   right before left), in pixels of the image
 * @typedef {{box: Box, confidence: number, landmarks: Landmarks, turn: number}} Detection `turn`:
 *   degrees, clockwise, by which the image was turned back to find it
 * @typedef {number[]} Row x, y, w, h, five points, and the score, 0 to 1
 * @typedef {(picture: Picture) => Promise<Row[]>} Detect finds upright faces in a picture
 * @typedef {[Detection, number]} Found a face, and the scale at which it was found
 */

import { interpolated, region, resizedSquare, roundEven, shrunk, turnedQuarters, withoutFourth } from "./pictures.js";

/** Larger images are scaled down to this longer side. */
export const DETECTION_SIDE = 640;
const MIN_DETECTION_SIDE = 192; // smaller ones are enlarged
const MIN_CONFIDENCE = 0.7; // below it, blurs and patterns are taken for faces
/** From here on, a coarse detection may be a face too small for that scale. */
export const HINT_CONFIDENCE = 0.2;
const SMALL_SIDE = 22; // pixels; others may be too small beside a face smaller than this
const SETTLED_SIDE = 32; // pixels; a face as large as this at some scale is taken from there
const SURELY_UPRIGHT = 0.91; // a face of this confidence is not checked in other orientations
const QUARTERS = [1, 2, 3];
const CLOSE_SIDE = 128;
const CLOSE_SCALE = 2;
const SAME_FACE_IOU = 0.4;
const SAME_FACE_INSIDE = 0.8;

/**
 * Find the faces of an image in any orientation, left to right.
 *
 * @param {Picture} image
 * @param {Detect} detect
 * @returns {Promise<Detection[]>}
 */
export async function findFaces(image, detect, side = DETECTION_SIDE) {
  const coarse = Math.max(MIN_DETECTION_SIDE, Math.floor(side / 2));
  const sizes = new Map(); // a large image takes long to scale down
  const sized = (longer) => {
    if (!sizes.has(longer)) sizes.set(longer, resized(image, longer));
    return sizes.get(longer);
  };
  const found = async (quarter) => merge(await search(image, sized, rotated(detect, quarter), coarse, side), image);
  let [upright, quarters] = await splitUpright(image, await found(0), detect);
  if (!(upright.length || quarters.size)) {
    quarters = await lyingQuarters(image, sized(coarse), detect);
  }
  if (!quarters.size) return upright.map(([one]) => one);
  const lying = [];
  for (const quarter of [...quarters].sort()) {
    for (const [one, scale] of await found(quarter)) {
      if ((await orientation(image, one, detect)) !== quarter) continue;
      lying.push([{ ...one, turn: quarter < 3 ? 90 * quarter : -90 }, scale]);
    }
  }
  lying.sort((one, other) => other[0].confidence - one[0].confidence);
  return firstOfEach([...upright, ...lying]).map(([one]) => one);
}

/** The faces that are upright, and the quarter turns by which the others lean. */
async function splitUpright(image, found, detect) {
  const quarterOf = async (face) =>
    face.confidence >= SURELY_UPRIGHT ? 0 : ((await orientation(image, face, detect)) ?? 0);
  let best = null;
  for (const [one] of found) if (!best || one.confidence > best.confidence) best = one;
  if (!best || !(await quarterOf(best))) return [found, new Set()];
  const upright = [];
  const quarters = new Set();
  for (const each of found) {
    const quarter = await quarterOf(each[0]);
    if (quarter) quarters.add(quarter);
    else upright.push(each);
  }
  return [upright, quarters];
}

/** The quarter turns by which faces lean, where no upright one was found. */
async function lyingQuarters(image, [picture, scale], detect) {
  const quarters = new Set();
  for (const quarter of QUARTERS) {
    const rows = sure(await rotated(detect, quarter)(picture));
    for (const [one] of firstOfEachFace(detections({ rows, scale }, image).map((each) => [each, scale]))) {
      if ((await orientation(image, one, detect)) !== quarter) continue;
      quarters.add(quarter);
      break;
    }
  }
  return quarters;
}

/** By how many quarter turns, clockwise, a face leans, 0 to 3; null if it is no face close up. */
async function orientation(image, face, detect) {
  const crop = squareCrop(image, face.box, CLOSE_SCALE * Math.sqrt(face.box.w * face.box.h));
  const close = resizedSquare(crop, CLOSE_SIDE);
  let best = 0;
  let highest = -1;
  for (const quarter of [0, ...QUARTERS]) {
    const score = centralScore(await rotated(detect, quarter)(close));
    if (score > highest) [best, highest] = [quarter, score];
  }
  return highest >= MIN_CONFIDENCE ? best : null;
}

function centralScore(rows) {
  const isNear = ([x, y, w, h]) =>
    Math.hypot(x + w / 2 - CLOSE_SIDE / 2, y + h / 2 - CLOSE_SIDE / 2) < CLOSE_SIDE / 4;
  return rows.filter(isNear).reduce((most, row) => Math.max(most, row.at(-1)), 0);
}

/** Finds faces that lean by so many quarter turns, clockwise; rows are of the picture as it is. */
function rotated(detect, quarter) {
  if (quarter === 0) return detect;
  return async (picture) => {
    let rows = await detect(turnedQuarters(picture, quarter));
    for (let number = quarter - 1; number >= 0; number -= 1) {
      const width = number % 2 === 0 ? picture.width : picture.height;
      rows = rows.map((row) => rotatedBack(row, width));
    }
    return rows;
  };
}

function rotatedBack([x, y, w, h, ...rest], width) {
  const back = [width - y - h, x, h, w];
  for (let i = 0; i < 10; i += 2) back.push(width - rest[i + 1], rest[i]);
  return [...back, rest[10]];
}

// ---------------------------------------------------------------- scales
async function search(image, sized, detect, coarse, side) {
  if (Math.max(image.width, image.height) > coarse) {
    const [small, scale] = sized(coarse);
    const rows = await detect(small);
    if (!mayShowMore(rows)) return { rows: sure(rows), scale };
  }
  const [whole, scale] = sized(side);
  return { rows: sure(await detect(whole)), scale };
}

function mayShowMore(rows) {
  const isSmallHint = (row) => Math.min(row[2], row[3]) < SMALL_SIDE && row.at(-1) >= HINT_CONFIDENCE;
  return !sure(rows).length || rows.some(isSmallHint);
}

function sure(rows) {
  return rows.filter((row) => row.at(-1) >= MIN_CONFIDENCE);
}

/** Each face of an image once, left to right, with its scale. */
function merge(view, image) {
  const ranked = detections(view, image).sort(
    (one, other) => other.confidence - one.confidence || byPlace(one, other),
  );
  const once = firstOfEach(ranked.map((one) => [one, view.scale]));
  const isSettled = ([one, scale]) => Math.min(one.box.w, one.box.h) * scale >= SETTLED_SIDE;
  const small = once.filter((each) => !isSettled(each)).reverse();
  return firstOfEach([...once.filter(isSettled), ...small]);
}

/**
 * An image at a size that suits the detector, and that size over the original's.
 *
 * @param {Picture} image
 * @returns {[Picture, number]}
 */
export function resized(image, side) {
  const { width, height } = image;
  const longer = Math.max(width, height);
  let [scale, resize] = [1, withoutFourth];
  if (longer > side) [scale, resize] = [side / longer, shrunk];
  else if (longer < MIN_DETECTION_SIDE) [scale, resize] = [Math.min(4, MIN_DETECTION_SIDE / longer), interpolated];
  const [wide, high] = [width, height].map((each) => Math.max(1, roundEven(each * scale)));
  return [resize(image, wide, high), scale];
}

// ---------------------------------------------------------------- boxes
function detections({ rows, scale }, image) {
  const found = [];
  for (const row of rows) {
    const box = boxInImage(row, scale, image);
    if (!box) continue;
    const landmarks = [];
    for (let i = 4; i < 14; i += 2) landmarks.push([row[i] / scale, row[i + 1] / scale]);
    found.push({ box, confidence: Math.min(1, row[14]), landmarks, turn: 0 });
  }
  return found;
}

/** @returns {Box | null} in the image, in whole pixels; null if nothing of it lies inside. */
export function boxInImage(row, scale, { width, height }) {
  const [x, y, w, h] = row.slice(0, 4).map((value) => value / scale);
  const [left, right] = [Math.max(0, roundEven(x)), Math.min(width, roundEven(x + w))];
  const [top, bottom] = [Math.max(0, roundEven(y)), Math.min(height, roundEven(y + h))];
  return right > left && bottom > top ? { x: left, y: top, w: right - left, h: bottom - top } : null;
}

/** A square of `side` pixels, centred on a box. */
export function squareCrop(image, box, side) {
  const size = Math.max(1, roundEven(side));
  const [left, top] = [roundEven(box.x + (box.w - size) / 2), roundEven(box.y + (box.h - size) / 2)];
  return region(image, left, top, left + size, top + size);
}

/** The first of the detections of each face, sorted left to right, then downwards. */
function firstOfEach(ranked) {
  return firstOfEachFace(ranked).sort((one, other) => byPlace(one[0], other[0]));
}

function firstOfEachFace(ranked) {
  const kept = [];
  for (const each of ranked) {
    if (!kept.some(([other]) => isSameFace(each[0].box, other.box))) kept.push(each);
  }
  return kept;
}

function byPlace({ box: one }, { box: other }) {
  return one.x - other.x || one.y - other.y || one.w - other.w || one.h - other.h;
}

/** Intersection over union, 0 (apart) to 1 (the same). */
export function overlap(one, other) {
  const width = Math.min(one.x + one.w, other.x + other.w) - Math.max(one.x, other.x);
  const height = Math.min(one.y + one.h, other.y + other.h) - Math.max(one.y, other.y);
  if (width <= 0 || height <= 0) return 0;
  return (width * height) / (one.w * one.h + other.w * other.h - width * height);
}

function isSameFace(one, other) {
  const iou = overlap(one, other);
  const areas = [one.w * one.h, other.w * other.h];
  const shared = (iou * (areas[0] + areas[1])) / (1 + iou);
  return iou > SAME_FACE_IOU || shared > SAME_FACE_INSIDE * Math.min(...areas);
}
