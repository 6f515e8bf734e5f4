/** The seven emotions, valence and other values of one face's scores. Port of mien/core/emotions.py. */

/** The default seven in alphabetical order, which is the order of scores everywhere. */
export const EMOTIONS = Object.freeze([
  "angry", "disgust", "fear", "happy", "neutral", "sad", "surprise",
]);

/** The emotions that `valence` weighs against happy. */
export const UNPLEASANT = Object.freeze(["angry", "disgust", "fear", "sad"]);

/**
 * Pleasantness of an expression, -1 to 1: happy minus the largest of angry, disgust, fear and sad.
 *
 * @param {Record<string, number>} scores
 * @returns {number | null} null if one of these classes is missing.
 */
export function valence(scores) {
  if (!["happy", ...UNPLEASANT].every((emotion) => Object.hasOwn(scores, emotion))) return null;
  return scores.happy - Math.max(...UNPLEASANT.map((emotion) => scores[emotion]));
}

/**
 * The most likely emotion, its score, and all scores; the first one in a tie.
 *
 * @param {Record<string, number>} scores
 */
export function likeliest(scores) {
  let emotion = null;
  for (const [name, score] of Object.entries(scores)) {
    if (emotion === null || score > scores[emotion]) emotion = name;
  }
  return { emotion, confidence: scores[emotion], scores };
}

/**
 * The model's emotions in order, taken from the first face; the default seven if there is no face.
 *
 * @param {Iterable<{faces: {scores: Record<string, number>}[]}>} results
 * @returns {string[]}
 */
export function labelsOf(results) {
  for (const result of results) {
    if (result.faces.length > 0) return Object.keys(result.faces[0].scores);
  }
  return [...EMOTIONS];
}

/**
 * One of a face's readings.
 *
 * @param {object} face
 * @param {"raw" | "smoothed" | "corrected"} kind of the frame alone, smoothed over time, or
 *   corrected by a baseline.
 * @returns {{emotion: string, confidence: number, scores: Record<string, number>} | null}
 */
export function reading(face, kind) {
  return kind === "raw" ? face : (face[kind] ?? null);
}
