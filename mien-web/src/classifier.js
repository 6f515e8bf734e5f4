/**
 * Emotion classifier: 48×48 grey faces in, calibrated probabilities out. Port of mien.inference.classifier.
 *
 * @typedef {object} Reading output and calibration of the network for one set of labels
 * @property {{name: string, version: string, sha256: string}} model
 * @property {string} labels "people", "fer2013" or "own"
 * @property {string[]} emotions
 * @property {string} output name of the logits
 * @property {number} temperature
 * @property {number} exponent of the entropy in the temperature, 0 for a constant temperature
 * @property {number[]} bias added to the logits
 * @property {number[]} thresholds confidence below which a reading is uncertain, per emotion
 */

import { FACE_SIZE } from "./preprocess.js";

const MANIFEST_SCHEMA = "mien-model/1";
const MIN_ENTROPY = 1e-3;
const BATCH_SIZE = 64;

/**
 * Select a reading from a model's manifest.
 *
 * @param {object} manifest content of `manifest.json`
 * @param {string} [labels] by default "people" if the model has that reading, else its first one
 * @returns {Reading}
 * @throws {Error} with a one-line message if the manifest is invalid or has no such reading
 */
export function readingOf(manifest, labels) {
  if (manifest?.schema !== MANIFEST_SCHEMA || !Array.isArray(manifest.labels) || !manifest.file) {
    throw new Error(`expected a manifest of schema ${MANIFEST_SCHEMA}, got ${JSON.stringify(manifest?.schema)}`);
  }
  const { name, version, labels: emotions } = manifest;
  const readings = { [manifest.reading || "fer2013"]: manifest, ...manifest.readings };
  const chosen = labels ?? ("people" in readings ? "people" : Object.keys(readings)[0]);
  if (!Object.hasOwn(readings, chosen)) {
    const known = Object.keys(readings).join(" or ");
    throw new Error(`the model ${name} ${version} has no labels ${JSON.stringify(chosen)}: expected ${known}`);
  }
  const reading = readings[chosen];
  const perEmotion = (values) => emotions.map((emotion) => values?.[emotion] ?? 0);
  return {
    model: { name, version, sha256: manifest.file.sha256 },
    labels: chosen,
    emotions,
    output: reading.outputs.logits,
    temperature: reading.temperature,
    exponent: reading.entropy_exponent ?? 0,
    bias: perEmotion(reading.bias),
    thresholds: perEmotion(reading.thresholds),
  };
}

/**
 * Create a function that classifies faces in batches.
 *
 * @param {import("./runtime.js").Network} network
 * @param {Reading} reading
 * @returns {(faces: Uint8Array[]) => Promise<Float32Array[]>} takes 48×48 grey faces, returns their probabilities
 */
export function classifierOf(network, reading) {
  const count = reading.emotions.length;
  return async (faces) => {
    const rows = [];
    for (let start = 0; start < faces.length; start += BATCH_SIZE) {
      const batch = faces.slice(start, start + BATCH_SIZE);
      const data = new Uint8Array(batch.length * FACE_SIZE ** 2);
      batch.forEach((face, index) => data.set(face, index * FACE_SIZE ** 2));
      const shape = [batch.length, FACE_SIZE, FACE_SIZE];
      const outputs = await network.run({ faces: network.tensor("uint8", data, shape) }, [reading.output]);
      const logits = outputs[reading.output].data;
      batch.forEach((_, index) => rows.push(probabilities(logits.subarray(index * count, (index + 1) * count), reading)));
    }
    return rows;
  };
}

/**
 * Convert logits into calibrated probabilities (mien.core.calibration).
 *
 * @param {ArrayLike<number>} logits
 * @param {Pick<Reading, "bias" | "temperature" | "exponent">} reading
 * @returns {Float32Array} sums to 1
 * @throws {Error} if a logit is not finite
 */
export function probabilities(logits, { bias, temperature, exponent }) {
  const values = Array.from(logits, (value, index) => value + bias[index]);
  if (!values.every(Number.isFinite)) throw new Error("the model returned a value that is not a number: download it again");
  const max = Math.max(...values);
  const shifted = values.map((value) => value - max);
  const divisor = exponent ? temperature * (entropyOf(shifted) + MIN_ENTROPY) ** exponent : temperature;
  const powers = shifted.map((value) => Math.exp(value / divisor));
  const sum = powers.reduce((a, b) => a + b);
  return Float32Array.from(powers, (power) => power / sum);
}

/** Normalized entropy, 0 to 1, of logits whose maximum is 0. */
function entropyOf(shifted) {
  const powers = shifted.map(Math.exp);
  const sum = powers.reduce((a, b) => a + b);
  const weighted = powers.reduce((total, power, index) => total + power * shifted[index], 0);
  const entropy = (Math.log(sum) - weighted / sum) / Math.log(shifted.length);
  return Math.min(1, Math.max(0, entropy));
}

/** Index of the largest value; the first one in a tie. */
export function argmax(values) {
  let best = 0;
  for (let index = 1; index < values.length; index += 1) if (values[index] > values[best]) best = index;
  return best;
}
