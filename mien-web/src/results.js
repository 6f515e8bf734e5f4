/** Results in mien's JSON format. Port of mien.core.results. */

import { round6 } from "./analysis/tables.js";
import { argmax } from "./classifier.js";

const SCHEMA = "mien/1";

/**
 * Build one face of a result.
 *
 * @param {number} id number of the face in its image
 * @param {import("./search.js").Detection} detection
 * @param {ReturnType<import("./quality.js").qualityOf>} quality
 * @param {Float32Array} scores
 * @param {import("./classifier.js").Reading} reading
 */
export function toFace(id, detection, quality, scores, { emotions, thresholds }) {
  const best = argmax(scores);
  return {
    face_id: id,
    track_id: null,
    box: detection.box,
    face_confidence: round6(detection.confidence),
    emotion: emotions[best],
    confidence: round6(scores[best]),
    uncertain: scores[best] < thresholds[best] || quality.flags.includes("turned_away"),
    scores: Object.fromEntries(emotions.map((emotion, index) => [emotion, round6(scores[index])])),
    quality: { ...quality, blur: round6(quality.blur) },
  };
}

/**
 * Build the result of an image, or of one that cannot be read if `error` is given.
 *
 * @param {import("./classifier.js").Reading} reading
 * @param {{source?: string | null, width?: number, height?: number, faces?: object[], status?: string,
 *   error?: string}} content
 */
export function toResult(reading, { source = null, width = null, height = null, faces = [], status, error }) {
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
