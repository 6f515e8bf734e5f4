/**
 * Occlusion maps: cover the face patch by patch and measure the drop of the score. Port of
 * mien.inference.explain.
 */

import { argmax } from "./classifier.js";
import { roundEven } from "./pictures.js";
import { FACE_SIZE } from "./preprocess.js";
import { mean } from "./quality.js";

const [PATCH, STRIDE] = [12, 4];

/**
 * Compute the occlusion map of a face.
 *
 * @param {Uint8Array} face 48×48, grey
 * @param {(faces: Uint8Array[]) => Promise<Float32Array[]>} classify
 * @param {number | null} target index of the emotion; null for the most likely one
 * @returns {Promise<{emotion: number, values: Float32Array, peak: number}>} `values` is 48×48, from 0
 *   to 1, relative to `peak`, the largest mean drop of the score
 */
export async function occlusion(face, classify, target = null) {
  const weights = patchWeights();
  const [scores] = await classify([face]);
  const emotion = target ?? argmax(scores);
  const occluded = await classify(occludedFaces(face, weights));
  const count = weights.length;
  const values = new Float32Array(FACE_SIZE ** 2);
  occluded.forEach((row, index) => {
    const drop = Math.fround(scores[emotion] - row[emotion]);
    const [down, across] = [weights[Math.floor(index / count)], weights[index % count]];
    for (let y = 0; y < FACE_SIZE; y += 1) {
      if (!down[y]) continue;
      for (let x = 0; x < FACE_SIZE; x += 1) values[y * FACE_SIZE + x] += drop * down[y] * across[x];
    }
  });
  const peak = Math.max(0, values.reduce((max, value) => Math.max(max, value)));
  return { emotion, peak, values: values.map((value) => (peak > 0 ? Math.max(0, value / peak) : 0)) };
}

/** Copies of the face, each with one patch covered by the mean grey, row by row. */
export function occludedFaces(face, weights = patchWeights()) {
  const grey = roundEven(mean(face));
  return weights.flatMap((down) =>
    weights.map((across) =>
      face.map((value, index) => (down[Math.floor(index / FACE_SIZE)] && across[index % FACE_SIZE] ? grey : value)),
    ),
  );
}

/** Weights of the patches along one side: overlapping smooth bumps that sum to 1 at each pixel. */
function patchWeights() {
  const starts = [];
  for (let start = STRIDE - PATCH; start < FACE_SIZE; start += STRIDE) starts.push(start);
  const bump = (start, pixel) => {
    const distance = pixel + 0.5 - (start + PATCH / 2);
    return Math.abs(distance) < PATCH / 2 ? Math.cos((Math.PI * distance) / PATCH) ** 2 : 0;
  };
  const pixels = Array.from({ length: FACE_SIZE }, (_, pixel) => pixel);
  const sums = pixels.map((pixel) => starts.reduce((sum, start) => sum + bump(start, pixel), 0));
  return starts.map((start) => Float32Array.from(pixels, (pixel) => bump(start, pixel) / sums[pixel]));
}
