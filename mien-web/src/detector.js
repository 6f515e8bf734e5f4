/**
 * The detectors: libface (libfacedetection's network) and none, as mien.inference.detectors.
 *
 * @typedef {import("./search.js").Detection} Detection
 * @typedef {import("./pictures.js").Picture} Picture
 * @typedef {object} Detector
 * @property {string} name
 * @property {number | null} cropScale side of a face's crop over its box's mean side; null: the box
 * @property {(image: Picture) => Promise<Detection[]>} detect left to right
 */

import { HINT_CONFIDENCE, findFaces } from "./search.js";

const STRIDES = [8, 16, 32]; // pixels from cell to cell, in the order of the outputs
const NMS_IOU = 0.45;
const [MOST_CANDIDATES, MOST_FACES] = [1000, 512];
const f = Math.fround;

/** @type {Detector} takes the whole image for one face crop. */
export const NO_DETECTOR = {
  name: "none",
  cropScale: null,
  detect: async ({ width, height }) => [
    { box: { x: 0, y: 0, w: width, h: height }, confidence: 1, landmarks: null, turn: 0 },
  ],
};

/**
 * @param {{run: (inputs: object) => Promise<Record<string, {data: Float32Array}>>, tensor: Function}} network
 * @returns {Detector}
 */
export function libface(network) {
  const rows = async ({ data, width, height }) => {
    const picture = network.tensor("uint8", data, [height, width, 3]);
    const { scores, offsets } = await network.run({ picture });
    return decoded(scores.data, offsets.data, width, height);
  };
  return { name: "libface", cropScale: 1, detect: (image) => findFaces(image, rows) };
}

/**
 * The faces that the network's outputs tell of.
 *
 * @param {Float32Array} scores of each cell, 0 to 1
 * @param {Float32Array} offsets fourteen rows of as many: box and points, in strides from the cell
 * @returns {number[][]} x, y, w, h and five points in whole pixels, and the score
 */
export function decoded(scores, offsets, width, height) {
  const count = scores.length;
  const candidates = [];
  for (let cell = 0; cell < count; cell += 1) if (scores[cell] >= HINT_CONFIDENCE) candidates.push(cell);
  candidates.sort((one, other) => scores[other] - scores[one]);
  const kept = [];
  for (const cell of candidates.slice(0, MOST_CANDIDATES)) {
    const face = boxOf(cell, offsets, count, width, height);
    if (kept.every((other) => iou(face, other) <= NMS_IOU)) kept.push({ ...face, cell });
  }
  return kept.slice(0, MOST_FACES).map((face) => {
    const row = [face.left, face.top, face.right - face.left, face.bottom - face.top].map((side) => Math.trunc(f(side)));
    for (let part = 4; part < 14; part += 1) {
      const corner = part % 2 === 0 ? face.x : face.y;
      row.push(Math.trunc(f(f(offsets[part * count + face.cell] * face.stride) + corner)));
    }
    return [...row, Math.trunc(f(scores[face.cell] * 100)) / 100];
  });
}

function boxOf(cell, offsets, count, width, height) {
  const [wide, high] = [width, height].map((side) => Math.ceil(side / 32) * 32);
  let [level, index] = [0, cell];
  for (; ; level += 1) {
    const cells = (wide / STRIDES[level]) * (high / STRIDES[level]);
    if (index < cells || level === 2) break;
    index -= cells;
  }
  const stride = STRIDES[level];
  const columns = wide / stride;
  const [x, y] = [(index % columns) * stride, Math.floor(index / columns) * stride];
  const part = (number) => offsets[number * count + cell];
  const [centreX, centreY] = [f(f(part(0) * stride) + x), f(f(part(1) * stride) + y)];
  const [halfX, halfY] = [2, 3].map((number) => f(f(f(Math.exp(part(number))) * stride) / 2));
  return {
    stride, x, y,
    left: f(centreX - halfX), top: f(centreY - halfY), right: f(centreX + halfX), bottom: f(centreY + halfY),
  };
}

function iou(one, other) {
  const width = Math.min(one.right, other.right) - Math.max(one.left, other.left);
  const height = Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top);
  if (width <= 0 || height <= 0) return 0;
  const area = (box) => (box.right - box.left) * (box.bottom - box.top);
  return (width * height) / (area(one) + area(other) - width * height);
}
