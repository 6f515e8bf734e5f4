/**
 * What follows from the results of many frames: people's numbers, smoothed scores, baselines,
 * episodes, tables, saved sessions. Pure functions and plain objects, without a page: they run in
 * Node as well, and give the figures that `mien predict VIDEO` gives (mien.video, mien.core.results).
 *
 * @module mien-web/analysis
 */

export { EMOTIONS, UNPLEASANT, labelsOf, likeliest, valence } from "./emotions.js";
export { CutFinder, MEMORY_S, Tracker, assign, memoryFor } from "./tracker.js";
export { SMOOTHING_S, Smoother, createTracker } from "./smoothing.js";
export { applyBaseline, correct, measureBaseline } from "./baseline.js";
export { episodes, people } from "./episodes.js";
export { formatTime, markerTable, parseTime, readMarkers, writeMarkers } from "./markers.js";
export { compare, summary } from "./summary.js";
export {
  comparisonToCsv, markersToCsv, resultRows, round6, scoreColumns, tableColumns, toCsv,
} from "./tables.js";
export { SESSION_SCHEMA, fromJson, toJson } from "./session.js";
