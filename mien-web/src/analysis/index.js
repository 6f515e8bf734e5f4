/**
 * Analysis of frame results over time: tracking, smoothing, baselines, episodes, tables and saved
 * sessions. Pure functions and plain objects that need no DOM and also run in Node; their figures are
 * those of `mien predict VIDEO` (mien.video, mien.core.results).
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
