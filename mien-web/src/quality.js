/** Image quality of a face: size, blur, exposure and pose. Port of mien.inference.preprocess. */

import { FACE_SIZE } from "./preprocess.js";

const SMALL_PX = 24;
const BLURRED = 0.4;
const DARK_LEVEL = 50;
const [BRIGHT_LEVEL, BRIGHT_SHARE] = [250, 0.4];
const YAW_LIMIT = 0.3;
const PITCH_RANGE = [0.42, 0.66];
const [SHARP_DETAIL, BLURRED_DETAIL, NOISE_VARIANCE] = [0.35, 0.004, 25];

/**
 * Measure the quality of a face.
 *
 * @param {Uint8Array} face 48×48, grey
 * @param {import("./search.js").Box} box
 * @param {import("./search.js").Landmarks | null} landmarks
 * @returns {{size_px: number, blur: number, flags: string[]}}
 */
export function qualityOf(face, box, landmarks) {
  const [size, blur] = [Math.min(box.w, box.h), blurOf(face)];
  const flags = [];
  if (size < SMALL_PX) flags.push("small");
  if (blur >= BLURRED) flags.push("blurred");
  if (mean(face) < DARK_LEVEL) flags.push("dark");
  if (face.filter((value) => value >= BRIGHT_LEVEL).length / face.length >= BRIGHT_SHARE) flags.push("bright");
  if (landmarks && isTurnedAway(landmarks)) flags.push("turned_away");
  return { size_px: size, blur, flags };
}

/** Blur from 0 (sharp) to 1, by the share of fine detail in the variance. */
function blurOf(face) {
  const detail = variance(laplacian(face)) / (variance(face) + NOISE_VARIANCE);
  if (detail <= BLURRED_DETAIL) return 1;
  const blur = Math.log(SHARP_DETAIL / detail) / Math.log(SHARP_DETAIL / BLURRED_DETAIL);
  return Math.min(1, Math.max(0, blur));
}

function laplacian(face) {
  const last = FACE_SIZE - 1;
  const mirrored = (index) => (index < 0 ? -index : index > last ? 2 * last - index : index);
  const at = (y, x) => face[mirrored(y) * FACE_SIZE + mirrored(x)];
  return Float32Array.from(face, (value, index) => {
    const [y, x] = [Math.floor(index / FACE_SIZE), index % FACE_SIZE];
    return at(y - 1, x) + at(y + 1, x) + at(y, x - 1) + at(y, x + 1) - 4 * value;
  });
}

function isTurnedAway(landmarks) {
  const pitch = pitchOf(landmarks);
  return yawOf(landmarks) >= YAW_LIMIT || !(PITCH_RANGE[0] < pitch && pitch < PITCH_RANGE[1]);
}

/** Position of the nose between the eyes (0) and the mouth (1). */
function pitchOf([right, left, nose, mouthRight, mouthLeft]) {
  const eyes = [0, 1].map((axis) => (right[axis] + left[axis]) / 2);
  const down = [0, 1].map((axis) => (mouthRight[axis] + mouthLeft[axis]) / 2 - eyes[axis]);
  const square = down[0] ** 2 + down[1] ** 2;
  return square ? ((nose[0] - eyes[0]) * down[0] + (nose[1] - eyes[1]) * down[1]) / square : Infinity;
}

/** Rotation of the head to a side: 0 if it faces the camera, above 1 in profile. */
function yawOf([right, left, nose, mouthRight, mouthLeft]) {
  const down = [0, 1].map((axis) => mouthRight[axis] + mouthLeft[axis] - right[axis] - left[axis]);
  const length = Math.hypot(...down);
  if (length === 0) return Infinity;
  const across = [down[1] / length, -down[0] / length];
  const along = (from, to) => (to[0] - from[0]) * across[0] + (to[1] - from[1]) * across[1];
  const middle = [0, 1].map((axis) => (right[axis] + left[axis] + mouthRight[axis] + mouthLeft[axis]) / 4);
  const eyes = along(right, left);
  return eyes > 0 ? Math.abs(along(middle, nose)) / eyes : Infinity;
}

/** Arithmetic mean. */
export function mean(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

function variance(values) {
  const middle = mean(values);
  return values.reduce((sum, value) => sum + (value - middle) ** 2, 0) / values.length;
}
