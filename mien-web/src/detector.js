/**
 * Face detectors: libface (the network of libfacedetection) and none. Port of mien.inference.detectors.
 *
 * @typedef {import("./search.js").Detection} Detection
 * @typedef {import("./pictures.js").Picture} Picture
 * @typedef {object} Detector
 * @property {string} name
 * @property {number | null} cropScale side of a face crop relative to the mean side of its box; null to crop the box itself
 * @property {(image: Picture) => Promise<Detection[]>} detect returns faces from left to right
 */

import { HINT_CONFIDENCE, findFaces } from "./search.js";

const STRIDES = [8, 16, 32]; // pixels between cells, in the order of the outputs
const NMS_IOU = 0.45;
const [MAX_CANDIDATES, MAX_FACES] = [1000, 512];
const f = Math.fround;

/** @type {Detector} treats the whole image as one face crop. */
export const NO_DETECTOR = {
  name: "none",
  cropScale: null,
  detect: async ({ width, height }) => [
    { box: { x: 0, y: 0, w: width, h: height }, confidence: 1, landmarks: null, turn: 0 },
  ],
};

/**
 * Create the libface detector.
 *
 * @param {import("./runtime.js").Network} network
 * @returns {Detector}
 */
export function libface(network) {
  const detect = async ({ data, width, height }) => {
    const picture = network.tensor("uint8", data, [height, width, 3]);
    const { scores, offsets } = await network.run({ picture });
    return decode(scores.data, offsets.data, width, height);
  };
  return { name: "libface", cropScale: 1, detect: (image) => findFaces(image, detect) };
}

/**
 * Decode the outputs of the network, with non-maximum suppression.
 *
 * @param {Float32Array} scores per cell, 0 to 1
 * @param {Float32Array} offsets 14 × cells: box and landmarks relative to the cell, in strides
 * @param {number} width of the input in pixels
 * @param {number} height of the input in pixels
 * @returns {number[][]} per face: x, y, w, h and five landmarks in whole pixels, and the score
 */
export function decode(scores, offsets, width, height) {
  const count = scores.length;
  const candidates = [];
  for (let cell = 0; cell < count; cell += 1) if (scores[cell] >= HINT_CONFIDENCE) candidates.push(cell);
  candidates.sort((a, b) => scores[b] - scores[a]);
  const kept = [];
  for (const cell of candidates.slice(0, MAX_CANDIDATES)) {
    const face = decodeBox(cell, offsets, count, width, height);
    if (kept.every((other) => iou(face, other) <= NMS_IOU)) kept.push({ ...face, cell });
  }
  return kept.slice(0, MAX_FACES).map((face) => {
    const row = [face.left, face.top, face.right - face.left, face.bottom - face.top].map((side) => Math.trunc(f(side)));
    for (let part = 4; part < 14; part += 1) {
      const corner = part % 2 === 0 ? face.x : face.y;
      row.push(Math.trunc(f(f(offsets[part * count + face.cell] * face.stride) + corner)));
    }
    return [...row, Math.trunc(f(scores[face.cell] * 100)) / 100];
  });
}

function decodeBox(cell, offsets, count, width, height) {
  const [paddedWidth, paddedHeight] = [width, height].map((side) => Math.ceil(side / 32) * 32);
  let [level, index] = [0, cell];
  for (; ; level += 1) {
    const cells = (paddedWidth / STRIDES[level]) * (paddedHeight / STRIDES[level]);
    if (index < cells || level === 2) break;
    index -= cells;
  }
  const stride = STRIDES[level];
  const columns = paddedWidth / stride;
  const [x, y] = [(index % columns) * stride, Math.floor(index / columns) * stride];
  const offset = (row) => offsets[row * count + cell];
  const [centreX, centreY] = [f(f(offset(0) * stride) + x), f(f(offset(1) * stride) + y)];
  const [halfX, halfY] = [2, 3].map((row) => f(f(f(Math.exp(offset(row))) * stride) / 2));
  return {
    stride, x, y,
    left: f(centreX - halfX), top: f(centreY - halfY), right: f(centreX + halfX), bottom: f(centreY + halfY),
  };
}

function iou(a, b) {
  const width = Math.min(a.right, b.right) - Math.max(a.left, b.left);
  const height = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
  if (width <= 0 || height <= 0) return 0;
  const area = (box) => (box.right - box.left) * (box.bottom - box.top);
  return (width * height) / (area(a) + area(b) - width * height);
}
