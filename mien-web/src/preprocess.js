/**
 * From a face in an image to what the classifier takes: chosen, cut out, level, 48 x 48 grey, as
 * mien.inference.preprocess.
 */

import { interpolated, region, roundEven, shrunk, toGrey, warped } from "./pictures.js";
import { squareCrop } from "./search.js";

/** Side of the classifier's input, in pixels. */
export const FACE_SIZE = 48;
export const ALIGN = ["auto", "on", "off"];
const AUTO_ROLL = 10; // degrees from which on "auto" levels the eyes

/**
 * The detections that are read, in their order.
 *
 * @param {import("./search.js").Detection[]} detections
 * @param {{minFace: number, maxFaces: number | null}} choice
 */
export function chosen(detections, { minFace, maxFaces }) {
  const kept = detections.filter(({ box }) => Math.min(box.w, box.h) >= minFace);
  if (maxFaces === null || kept.length <= maxFaces) return kept;
  const ranked = kept.map((_, place) => place);
  const area = (place) => kept[place].box.w * kept[place].box.h;
  ranked.sort((one, other) => area(other) - area(one) || kept[other].confidence - kept[one].confidence);
  return ranked.slice(0, maxFaces).sort((one, other) => one - other).map((place) => kept[place]);
}

/**
 * A face cut out as FER-2013 shows faces, made a standard face.
 *
 * @param {import("./pictures.js").Picture} image
 * @param {import("./search.js").Box} box
 * @param {number | null} cropScale the detector's
 * @param {number} turn degrees, clockwise, by which the face leans
 * @returns {Uint8Array} 48 x 48, grey
 */
export function cutFace(image, box, cropScale, turn) {
  if (cropScale === null) return standardFace(region(image, box.x, box.y, box.x + box.w, box.y + box.h));
  const side = cropScale * Math.sqrt(box.w * box.h);
  return standardFace(turn ? turnedCrop(image, box, side, turn) : squareCrop(image, box, side));
}

/** @returns {Uint8Array} 48 x 48, grey, of a crop of any size */
export function standardFace(crop) {
  const grey = toGrey(crop);
  if (grey.width === FACE_SIZE && grey.height === FACE_SIZE) return grey.data;
  const resize = grey.width >= FACE_SIZE && grey.height >= FACE_SIZE ? shrunk : interpolated;
  return resize(grey, FACE_SIZE, FACE_SIZE).data;
}

/** A square of `side` pixels that leans about the box's centre, in 48 k pixels: none is lost. */
function turnedCrop(image, box, side, turn) {
  const size = FACE_SIZE * Math.max(1, Math.ceil(side / FACE_SIZE));
  const [scale, angle] = [side / size, (turn * Math.PI) / 180];
  const [along, across] = [scale * Math.cos(angle), scale * Math.sin(angle)];
  const middle = size / 2 - 0.5;
  // Pixels' centres lie at half coordinates.
  const [x, y] = [box.x + box.w / 2 - 0.5, box.y + box.h / 2 - 0.5];
  // As in Python a region comes first: what is interpolated then has the same small numbers.
  const reach = Math.ceil(((Math.abs(along) + Math.abs(across)) * size) / 2) + 2;
  const [left, top] = [Math.max(0, roundEven(x) - reach), Math.max(0, roundEven(y) - reach)];
  const right = Math.min(image.width, roundEven(x) + reach + 1);
  const bottom = Math.min(image.height, roundEven(y) + reach + 1);
  const matrix = [
    along, -across, x - (along * middle - across * middle) - left,
    across, along, y - (across * middle + along * middle) - top,
  ];
  return warped(region(image, left, top, right, bottom), matrix, size);
}

/**
 * By how many degrees a face's crop is to be turned back.
 *
 * @param {import("./search.js").Landmarks | null} landmarks
 * @param {string} align one of `ALIGN`
 * @param {number} quarter degrees by which the image was turned back to find the face
 */
export function turnOf(landmarks, align, quarter) {
  if (!landmarks || align === "off") return quarter;
  const roll = rollOf(landmarks);
  const lean = roll - quarter - 360 * roundEven((roll - quarter) / 360);
  return align === "on" || Math.abs(lean) >= AUTO_ROLL ? roll : quarter;
}

/** How far a face leans, in degrees, clockwise, by the line of the eyes and that down to the mouth. */
function rollOf([right, left, , mouthRight, mouthLeft]) {
  const eyes = [left[0] - right[0], left[1] - right[1]];
  const down = [0, 1].map((axis) => (mouthRight[axis] + mouthLeft[axis] - right[axis] - left[axis]) / 2);
  return (Math.atan2(eyes[1] - down[0], eyes[0] + down[1]) * 180) / Math.PI;
}
