/** The seven emotions and what is reckoned from one face's scores, as mien/core/emotions.py. */

/** Alphabetical, the order of the scores everywhere. */
export const EMOTIONS = Object.freeze([
  "angry", "disgust", "fear", "happy", "neutral", "sad", "surprise",
]);

/** The emotions that `valence` sets against happy. */
export const UNPLEASANT = Object.freeze(["angry", "disgust", "fear", "sad"]);

/**
 * How pleasant an expression is, -1 to 1: happy less the greatest of angry, disgust, fear and sad.
 *
 * @param {Record<string, number>} scores
 * @returns {number | null} null where a model lacks one of these classes.
 */
export function valence(scores) {
  if (!["happy", ...UNPLEASANT].every((emotion) => Object.hasOwn(scores, emotion))) return null;
  return scores.happy - Math.max(...UNPLEASANT.map((emotion) => scores[emotion]));
}

/**
 * The likeliest emotion, its score, and all scores; the first one where two are as likely.
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
 * The model's emotions in its order, as the first face has them; the usual seven where there is no
 * face.
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
 * The scores of one face by name: what it was read as ("raw"), or over time, or by a baseline.
 *
 * @param {object} face
 * @param {"raw" | "smoothed" | "corrected"} kind
 * @returns {{emotion: string, confidence: number, scores: Record<string, number>} | null}
 */
export function reading(face, kind) {
  return kind === "raw" ? face : (face[kind] ?? null);
}
