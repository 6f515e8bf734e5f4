/** Results in mien's JSON form, as mien.core.results writes it. */

import { round6 } from "./analysis/tables.js";
import { greatestOf } from "./classifier.js";

const SCHEMA = "mien/1";

/**
 * One face of a result.
 *
 * @param {number} number of the face within its image
 * @param {import("./search.js").Detection} found
 * @param {ReturnType<import("./quality.js").qualityOf>} quality
 * @param {Float32Array} scores
 * @param {import("./classifier.js").Reading} reading
 */
export function faceOf(number, found, quality, scores, { emotions, thresholds }) {
  const best = greatestOf(scores);
  return {
    face_id: number,
    track_id: null,
    box: found.box,
    face_confidence: round6(found.confidence),
    emotion: emotions[best],
    confidence: round6(scores[best]),
    uncertain: scores[best] < thresholds[best] || quality.flags.includes("turned_away"),
    scores: Object.fromEntries(emotions.map((emotion, index) => [emotion, round6(scores[index])])),
    quality: { ...quality, blur: round6(quality.blur) },
  };
}

/**
 * The result of one image; of one that cannot be read, where there is an error.
 *
 * @param {import("./classifier.js").Reading} reading
 * @param {{source?: string | null, width?: number, height?: number, faces?: object[], status?: string,
 *   error?: string}} found
 */
export function resultOf(reading, { source = null, width = null, height = null, faces = [], status, error }) {
  return {
    schema: SCHEMA,
    source,
    frame: null,
    time_s: null,
    status: status ?? (faces.length ? "ok" : "no_face"),
    width,
    height,
    faces,
    model: reading.model,
    labels: reading.labels,
    ...(error === undefined ? {} : { error }),
  };
}
