/**
 * Preprocessing: select faces, crop, align and convert them to 48×48 grey. Port of
 * mien.inference.preprocess.
 */

import { crop, resizeArea, resizeLinear, roundEven, toGrey, warpAffine } from "./pictures.js";
import { squareCrop } from "./search.js";

/** Side of the classifier's input in pixels. */
export const FACE_SIZE = 48;
export const ALIGN = ["auto", "on", "off"];
const AUTO_ROLL = 10; // degrees of lean at which "auto" levels the eyes

/**
 * Select the detections to read, in their order: not too small, and the largest of them.
 *
 * @param {import("./search.js").Detection[]} detections
 * @param {{minFace: number, maxFaces: number | null}} limits
 */
export function selectFaces(detections, { minFace, maxFaces }) {
  const kept = detections.filter(({ box }) => Math.min(box.w, box.h) >= minFace);
  if (maxFaces === null || kept.length <= maxFaces) return kept;
  const area = ({ box }) => box.w * box.h;
  const ranked = kept.toSorted((a, b) => area(b) - area(a) || b.confidence - a.confidence);
  const selected = new Set(ranked.slice(0, maxFaces));
  return kept.filter((detection) => selected.has(detection));
}

/**
 * Crop a face as in FER-2013 and convert it to the classifier's input.
 *
 * @param {import("./pictures.js").Picture} image
 * @param {import("./search.js").Box} box
 * @param {number | null} cropScale of the detector
 * @param {number} turn lean of the face in degrees, clockwise
 * @returns {Uint8Array} 48×48, grey
 */
export function cropFace(image, box, cropScale, turn) {
  if (cropScale === null) return toFaceInput(crop(image, box.x, box.y, box.x + box.w, box.y + box.h));
  const side = cropScale * Math.sqrt(box.w * box.h);
  return toFaceInput(turn ? rotatedCrop(image, box, side, turn) : squareCrop(image, box, side));
}

/** Convert a crop of any size to the classifier's input. @returns {Uint8Array} 48×48, grey */
export function toFaceInput(picture) {
  const grey = toGrey(picture);
  if (grey.width === FACE_SIZE && grey.height === FACE_SIZE) return grey.data;
  const resize = grey.width >= FACE_SIZE && grey.height >= FACE_SIZE ? resizeArea : resizeLinear;
  return resize(grey, FACE_SIZE, FACE_SIZE).data;
}

/** Crop a rotated square around the box's centre, sampled at a multiple of 48 pixels so that no detail is lost. */
function rotatedCrop(image, box, side, turn) {
  const size = FACE_SIZE * Math.max(1, Math.ceil(side / FACE_SIZE));
  const [scale, angle] = [side / size, (turn * Math.PI) / 180];
  const [along, across] = [scale * Math.cos(angle), scale * Math.sin(angle)];
  const middle = size / 2 - 0.5;
  // Pixel centres lie at half coordinates.
  const [x, y] = [box.x + box.w / 2 - 0.5, box.y + box.h / 2 - 0.5];
  // As in Python, crop first: interpolation then works on the same small coordinates.
  const reach = Math.ceil(((Math.abs(along) + Math.abs(across)) * size) / 2) + 2;
  const [left, top] = [Math.max(0, roundEven(x) - reach), Math.max(0, roundEven(y) - reach)];
  const right = Math.min(image.width, roundEven(x) + reach + 1);
  const bottom = Math.min(image.height, roundEven(y) + reach + 1);
  const matrix = [
    along, -across, x - (along * middle - across * middle) - left,
    across, along, y - (across * middle + along * middle) - top,
  ];
  return warpAffine(crop(image, left, top, right, bottom), matrix, size);
}

/**
 * Rotation that levels a face, in degrees.
 *
 * @param {import("./search.js").Landmarks | null} landmarks
 * @param {string} align one of `ALIGN`
 * @param {number} quarter rotation of the image in which the face was found, in degrees
 */
export function turnOf(landmarks, align, quarter) {
  if (!landmarks || align === "off") return quarter;
  const roll = rollOf(landmarks);
  const lean = roll - quarter - 360 * roundEven((roll - quarter) / 360);
  return align === "on" || Math.abs(lean) >= AUTO_ROLL ? roll : quarter;
}

/** Lean of a face in degrees, clockwise, from the line of the eyes and the line from eyes to mouth. */
function rollOf([right, left, , mouthRight, mouthLeft]) {
  const eyes = [left[0] - right[0], left[1] - right[1]];
  const down = [0, 1].map((axis) => (mouthRight[axis] + mouthLeft[axis] - right[axis] - left[axis]) / 2);
  return (Math.atan2(eyes[1] - down[0], eyes[0] + down[1]) * 180) / Math.PI;
}
