/**
 * Why a face is read as it is: occlusion covers it patch by patch and measures how much of the score
 * is lost, as mien.inference.explain.
 */

import { greatestOf } from "./classifier.js";
import { roundEven } from "./pictures.js";
import { FACE_SIZE } from "./preprocess.js";
import { mean } from "./quality.js";

const [PATCH, STRIDE] = [12, 4];

/**
 * @param {Uint8Array} face 48 x 48, grey
 * @param {(faces: Uint8Array[]) => Promise<Float32Array[]>} classify
 * @param {number | null} chosen index of the emotion; null for the likeliest
 * @returns {Promise<{emotion: number, values: Float32Array, peak: number}>} values: 48 x 48, 0 to 1,
 *   1 where most speaks for the emotion; peak: the score that is lost there
 */
export async function occlusion(face, classify, chosen = null) {
  const weights = patchWeights();
  const [scores] = await classify([face]);
  const emotion = chosen ?? greatestOf(scores);
  const left = await classify(coveredFaces(face, weights));
  const count = weights.length;
  const values = new Float32Array(FACE_SIZE ** 2);
  left.forEach((row, place) => {
    const lost = Math.fround(scores[emotion] - row[emotion]);
    const [down, across] = [weights[Math.floor(place / count)], weights[place % count]];
    for (let y = 0; y < FACE_SIZE; y += 1) {
      if (!down[y]) continue;
      for (let x = 0; x < FACE_SIZE; x += 1) values[y * FACE_SIZE + x] += lost * down[y] * across[x];
    }
  });
  const peak = Math.max(0, values.reduce((most, value) => Math.max(most, value)));
  return { emotion, peak, values: values.map((value) => (peak > 0 ? Math.max(0, value / peak) : 0)) };
}

/** The face with a patch covered by its mean grey, once for each place, row by row. */
export function coveredFaces(face, weights = patchWeights()) {
  const grey = roundEven(mean(face));
  return weights.flatMap((down) =>
    weights.map((across) =>
      face.map((value, index) => (down[Math.floor(index / FACE_SIZE)] && across[index % FACE_SIZE] ? grey : value)),
    ),
  );
}

/** Where patches lie along a side: a smooth bump each, else 0; at each place they sum to 1. */
function patchWeights() {
  const starts = [];
  for (let start = STRIDE - PATCH; start < FACE_SIZE; start += STRIDE) starts.push(start);
  const bump = (start, place) => {
    const distance = place + 0.5 - (start + PATCH / 2);
    return Math.abs(distance) < PATCH / 2 ? Math.cos((Math.PI * distance) / PATCH) ** 2 : 0;
  };
  const places = Array.from({ length: FACE_SIZE }, (_, place) => place);
  const sums = places.map((place) => starts.reduce((sum, start) => sum + bump(start, place), 0));
  return starts.map((start) => Float32Array.from(places, (place) => bump(start, place) / sums[place]));
}
