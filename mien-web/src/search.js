/**
 * Face search over scales and orientations. Port of mien.inference.detectors.
 *
 * Coarse to fine: half the size is searched first, at a quarter of the cost, and the full size only if
 * it may show more. Networks find many sideways faces as if they were upright, with lower confidence,
 * so unsure faces are checked in all four orientations.
 *
 * @typedef {import("./pictures.js").Picture} Picture
 * @typedef {{x: number, y: number, w: number, h: number}} Box
 * @typedef {[number, number][]} Landmarks eyes, tip of the nose, corners of the mouth (the person's
 *   right before left), in pixels of the image
 * @typedef {{box: Box, confidence: number, landmarks: Landmarks, turn: number}} Detection `turn` is the
 *   lean of the face in quarter turns, in degrees clockwise
 * @typedef {number[]} Row x, y, w, h, five landmarks, and the score, 0 to 1
 * @typedef {(picture: Picture) => Promise<Row[]>} Detect finds upright faces in a picture
 * @typedef {[Detection, number]} ScaledDetection a detection and the scale at which it was found
 */

import { crop, dropFourthChannel, resizeArea, resizeLinear, resizeSquare, rot90, roundEven } from "./pictures.js";

/** Larger images are scaled down to this longer side. */
export const DETECTION_SIDE = 640;
const MIN_DETECTION_SIDE = 192; // smaller images are enlarged
const MIN_CONFIDENCE = 0.7; // below it, many detections are blurs and patterns
/** Confidence above which a coarse detection may be a face too small for that scale. */
export const HINT_CONFIDENCE = 0.2;
const SMALL_SIDE = 22; // pixels; if a face is smaller than this, others may have been missed
const SETTLED_SIDE = 32; // pixels; a face at least this large at some scale is taken from that scale
const SURELY_UPRIGHT = 0.91; // from this confidence on, a face is not checked in other orientations
const QUARTERS = [1, 2, 3];
const CLOSE_UP_SIDE = 128;
const CLOSE_UP_SCALE = 2;
const SAME_FACE_IOU = 0.4;
const SAME_FACE_INSIDE = 0.8;

/**
 * Find the faces of an image in any orientation, left to right.
 *
 * @param {Picture} image
 * @param {Detect} detect
 * @param {number} [side] longer side of the search in pixels
 * @returns {Promise<Detection[]>}
 */
export async function findFaces(image, detect, side = DETECTION_SIDE) {
  const coarse = Math.max(MIN_DETECTION_SIDE, Math.floor(side / 2));
  const cache = new Map(); // scaling a large image down is slow
  const resized = (longer) => {
    if (!cache.has(longer)) cache.set(longer, resizeForDetection(image, longer));
    return cache.get(longer);
  };
  const searchRotated = async (quarter) => merge(await search(image, resized, rotated(detect, quarter), coarse, side), image);
  let [upright, quarters] = await splitUpright(image, await searchRotated(0), detect);
  if (!(upright.length || quarters.size)) {
    quarters = await sidewaysQuarters(image, resized(coarse), detect);
  }
  if (!quarters.size) return upright.map(([detection]) => detection);
  const sideways = [];
  for (const quarter of [...quarters].sort()) {
    for (const [detection, scale] of await searchRotated(quarter)) {
      if ((await orientation(image, detection, detect)) !== quarter) continue;
      sideways.push([{ ...detection, turn: quarter < 3 ? 90 * quarter : -90 }, scale]);
    }
  }
  sideways.sort(([a], [b]) => b.confidence - a.confidence);
  return leftToRight(withoutDuplicates([...upright, ...sideways])).map(([detection]) => detection);
}

/** Split into upright faces and the quarter turns of the others. */
async function splitUpright(image, faces, detect) {
  const quarterOf = async (face) =>
    face.confidence >= SURELY_UPRIGHT ? 0 : ((await orientation(image, face, detect)) ?? 0);
  let best = null;
  for (const [face] of faces) if (!best || face.confidence > best.confidence) best = face;
  if (!best || !(await quarterOf(best))) return [faces, new Set()];
  const upright = [];
  const quarters = new Set();
  for (const [face, scale] of faces) {
    const quarter = await quarterOf(face);
    if (quarter) quarters.add(quarter);
    else upright.push([face, scale]);
  }
  return [upright, quarters];
}

/** Quarter turns at which there are faces, if no upright one was found. */
async function sidewaysQuarters(image, [picture, scale], detect) {
  const quarters = new Set();
  for (const quarter of QUARTERS) {
    const rows = confident(await rotated(detect, quarter)(picture));
    for (const [face] of withoutDuplicates(toDetections({ rows, scale }, image))) {
      if ((await orientation(image, face, detect)) !== quarter) continue;
      quarters.add(quarter);
      break;
    }
  }
  return quarters;
}

/** Orientation of a face in quarter turns clockwise, 0 to 3; null if a close-up shows no face. */
async function orientation(image, face, detect) {
  const side = CLOSE_UP_SCALE * Math.sqrt(face.box.w * face.box.h);
  const closeUp = resizeSquare(squareCrop(image, face.box, side), CLOSE_UP_SIDE);
  let best = 0;
  let highest = -1;
  for (const quarter of [0, ...QUARTERS]) {
    const score = centralScore(await rotated(detect, quarter)(closeUp));
    if (score > highest) [best, highest] = [quarter, score];
  }
  return highest >= MIN_CONFIDENCE ? best : null;
}

function centralScore(rows) {
  const isNear = ([x, y, w, h]) =>
    Math.hypot(x + w / 2 - CLOSE_UP_SIDE / 2, y + h / 2 - CLOSE_UP_SIDE / 2) < CLOSE_UP_SIDE / 4;
  return rows.filter(isNear).reduce((max, row) => Math.max(max, row.at(-1)), 0);
}

/** Detector for faces rotated clockwise by quarter turns; rows are in coordinates of the unrotated picture. */
function rotated(detect, quarter) {
  if (quarter === 0) return detect;
  return async (picture) => {
    let rows = await detect(rot90(picture, quarter));
    for (let turn = quarter - 1; turn >= 0; turn -= 1) {
      const width = turn % 2 === 0 ? picture.width : picture.height;
      rows = rows.map((row) => rotateBack(row, width));
    }
    return rows;
  };
}

function rotateBack([x, y, w, h, ...rest], width) {
  const back = [width - y - h, x, h, w];
  for (let i = 0; i < 10; i += 2) back.push(width - rest[i + 1], rest[i]);
  return [...back, rest[10]];
}

// ---------------------------------------------------------------- scales
async function search(image, resized, detect, coarse, side) {
  if (Math.max(image.width, image.height) > coarse) {
    const [small, scale] = resized(coarse);
    const rows = await detect(small);
    if (!mayShowMore(rows)) return { rows: confident(rows), scale };
  }
  const [full, scale] = resized(side);
  return { rows: confident(await detect(full)), scale };
}

function mayShowMore(rows) {
  const isSmallHint = (row) => Math.min(row[2], row[3]) < SMALL_SIDE && row.at(-1) >= HINT_CONFIDENCE;
  return !confident(rows).length || rows.some(isSmallHint);
}

function confident(rows) {
  return rows.filter((row) => row.at(-1) >= MIN_CONFIDENCE);
}

/** Merge duplicate detections; faces from left to right with their scale. */
function merge(view, image) {
  const ranked = toDetections(view, image).sort(([a], [b]) => b.confidence - a.confidence || byPosition(a, b));
  const faces = leftToRight(withoutDuplicates(ranked));
  const isSettled = ([{ box }, scale]) => Math.min(box.w, box.h) * scale >= SETTLED_SIDE;
  const small = faces.filter((face) => !isSettled(face)).reverse();
  return leftToRight(withoutDuplicates([...faces.filter(isSettled), ...small]));
}

/**
 * Resize an image for the detector.
 *
 * @param {Picture} image
 * @param {number} side of the longer side, in pixels
 * @returns {[Picture, number]} the resized image and its scale
 */
export function resizeForDetection(image, side) {
  const { width, height } = image;
  const longer = Math.max(width, height);
  let [scale, resize] = [1, dropFourthChannel];
  if (longer > side) [scale, resize] = [side / longer, resizeArea];
  else if (longer < MIN_DETECTION_SIDE) [scale, resize] = [Math.min(4, MIN_DETECTION_SIDE / longer), resizeLinear];
  const [wide, high] = [width, height].map((length) => Math.max(1, roundEven(length * scale)));
  return [resize(image, wide, high), scale];
}

// ---------------------------------------------------------------- boxes
/** @returns {ScaledDetection[]} */
function toDetections({ rows, scale }, image) {
  const detections = [];
  for (const row of rows) {
    const box = boxInImage(row, scale, image);
    if (!box) continue;
    const landmarks = [];
    for (let i = 4; i < 14; i += 2) landmarks.push([row[i] / scale, row[i + 1] / scale]);
    detections.push([{ box, confidence: Math.min(1, row[14]), landmarks, turn: 0 }, scale]);
  }
  return detections;
}

/** Clip a box to the image. @returns {Box | null} in whole pixels; null if it lies outside */
export function boxInImage(row, scale, { width, height }) {
  const [x, y, w, h] = row.slice(0, 4).map((value) => value / scale);
  const [left, right] = [Math.max(0, roundEven(x)), Math.min(width, roundEven(x + w))];
  const [top, bottom] = [Math.max(0, roundEven(y)), Math.min(height, roundEven(y + h))];
  return right > left && bottom > top ? { x: left, y: top, w: right - left, h: bottom - top } : null;
}

/** Crop a square of `side` pixels around the centre of a box. */
export function squareCrop(image, box, side) {
  const size = Math.max(1, roundEven(side));
  const [left, top] = [roundEven(box.x + (box.w - size) / 2), roundEven(box.y + (box.h - size) / 2)];
  return crop(image, left, top, left + size, top + size);
}

/** Keep the first detection of each face. */
function withoutDuplicates(ranked) {
  const kept = [];
  for (const [face, scale] of ranked) {
    if (!kept.some(([other]) => isSameFace(face.box, other.box))) kept.push([face, scale]);
  }
  return kept;
}

function leftToRight(faces) {
  return faces.sort(([a], [b]) => byPosition(a, b));
}

function byPosition({ box: a }, { box: b }) {
  return a.x - b.x || a.y - b.y || a.w - b.w || a.h - b.h;
}

/** Intersection over union, 0 (disjoint) to 1 (identical). */
export function overlap(a, b) {
  const width = Math.min(a.x + a.w, b.x + b.w) - Math.max(a.x, b.x);
  const height = Math.min(a.y + a.h, b.y + b.h) - Math.max(a.y, b.y);
  if (width <= 0 || height <= 0) return 0;
  return (width * height) / (a.w * a.h + b.w * b.h - width * height);
}

function isSameFace(a, b) {
  const iou = overlap(a, b);
  const areas = [a.w * a.h, b.w * b.h];
  const shared = (iou * (areas[0] + areas[1])) / (1 + iou);
  return iou > SAME_FACE_IOU || shared > SAME_FACE_INSIDE * Math.min(...areas);
}
