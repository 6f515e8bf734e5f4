/**
 * The network: standard faces in, calibrated probabilities out, as mien.inference.classifier.
 *
 * @typedef {object} Reading how scores for one set of labels come from the network
 * @property {{name: string, version: string, sha256: string}} model
 * @property {string} labels "people", "fer2013" or "own"
 * @property {string[]} emotions
 * @property {string} output the name of the logits
 * @property {number} temperature
 * @property {number} exponent
 * @property {number[]} bias added to the logits
 * @property {number[]} thresholds below which a reading is uncertain
 */

import { FACE_SIZE } from "./preprocess.js";

const MANIFEST_SCHEMA = "mien-model/1";
const LEAST_ENTROPY = 1e-3;
const BATCH_SIZE = 64;

/**
 * Take one reading of a model's manifest.
 *
 * @param {object} manifest what `manifest.json` holds
 * @param {string} [labels] whose labels; "people" where the model has that reading, unless given
 * @returns {Reading}
 * @throws {Error} of one line, where it is no such manifest or has no such reading
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
  const each = (values) => emotions.map((emotion) => values?.[emotion] ?? 0);
  return {
    model: { name, version, sha256: manifest.file.sha256 },
    labels: chosen,
    emotions,
    output: reading.outputs.logits,
    temperature: reading.temperature,
    exponent: reading.entropy_exponent ?? 0,
    bias: each(reading.bias),
    thresholds: each(reading.thresholds),
  };
}

/**
 * @param {{run: Function, tensor: Function}} network
 * @param {Reading} reading
 * @returns {(faces: Uint8Array[]) => Promise<Float32Array[]>} probabilities of standard faces
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
 * Turn a face's logits into calibrated probabilities (mien.core.calibration).
 *
 * @param {ArrayLike<number>} logits
 * @param {Pick<Reading, "bias" | "temperature" | "exponent">} reading
 * @returns {Float32Array} they sum to 1
 */
export function probabilities(logits, { bias, temperature, exponent }) {
  const values = Array.from(logits, (value, index) => value + bias[index]);
  if (!values.every(Number.isFinite)) throw new Error("the model gave what is not a number: fetch it again");
  const greatest = Math.max(...values);
  const shifted = values.map((value) => value - greatest);
  const divisor = exponent ? temperature * (entropyOf(shifted) + LEAST_ENTROPY) ** exponent : temperature;
  const powers = shifted.map((value) => Math.exp(value / divisor));
  const sum = powers.reduce((one, other) => one + other);
  return Float32Array.from(powers, (power) => power / sum);
}

/** The normalised entropy, 0 to 1, of logits whose greatest is 0. */
function entropyOf(shifted) {
  const powers = shifted.map(Math.exp);
  const sum = powers.reduce((one, other) => one + other);
  const weighted = powers.reduce((total, power, index) => total + power * shifted[index], 0);
  const share = (Math.log(sum) - weighted / sum) / Math.log(shifted.length);
  return Math.min(1, Math.max(0, share));
}

/** The index of the greatest value, the first of equal ones. */
export function greatestOf(values) {
  let best = 0;
  for (let index = 1; index < values.length; index += 1) if (values[index] > values[best]) best = index;
  return best;
}
