/** Types of mien-web/analysis. Times are seconds, scores 0 to 1. */

export type Scores = Record<string, number>;

export interface Reading { emotion: string; confidence: number; scores: Scores }

export interface Face extends Reading {
  face_id: number;
  track_id: number | null;
  box: { x: number; y: number; w: number; h: number };
  face_confidence: number;
  uncertain: boolean;
  quality: { size_px: number; blur: number; flags: string[] };
  smoothed?: Reading;
  corrected?: Reading;
}

export interface Result {
  schema: "mien/1";
  source: string | null;
  frame: number | null;
  time_s: number | null;
  status: "ok" | "no_face" | "unreadable" | "error";
  width: number | null;
  height: number | null;
  faces: Face[];
  labels?: string;
  model: { name: string; version: string; sha256: string };
  error?: string;
}

export interface Pixels { data: ArrayLike<number>; width: number; height: number }

export const EMOTIONS: readonly string[];
export const UNPLEASANT: readonly string[];
export function valence(scores: Scores): number | null;
export function likeliest(scores: Scores): Reading;
export function labelsOf(results: Iterable<Result>): string[];

// ---------------------------------------------------------------- people over time
export const MEMORY_S: number;
export const SMOOTHING_S: number;
export function memoryFor(every?: number | null): number;

export interface FrameTracker {
  /** Returns the result with track_id and smoothed in its faces; `pixels` enables cut detection. */
  update(result: Result, pixels?: Pixels): Result;
  forget(): void;
}
export function createTracker(options?: { every?: number | null; smooth?: number }): FrameTracker;

export class Tracker {
  constructor(memory?: number);
  update(time: number, boxes: Face["box"][]): number[];
  rescale(across: number, down: number): void;
  forget(): void;
}
export class Smoother {
  constructor(constant?: number);
  update(time: number, track: number, scores: Scores): Reading;
  forgetBefore(time: number): void;
}
export class CutFinder { isCut(time: number, pixels: Pixels): boolean }
export function assign(costs: number[][]): [number, number][];

// ---------------------------------------------------------------- baselines
export interface Baseline {
  start_s: number;
  end_s: number;
  /** Frames measured and shift of the log scores, by track id. */
  frames: Record<string, number>;
  shifts: Record<string, Scores>;
}
export function measureBaseline(
  results: Result[], span: { start: number; end: number; track?: number },
): Baseline;
export function correct(scores: Scores, baseline: Pick<Baseline, "shifts">, track?: number): Scores;
export function applyBaseline(results: Result[], baseline: Pick<Baseline, "shifts">): Result[];

// ---------------------------------------------------------------- episodes and tables
export interface Episode {
  track_id: number;
  start_s: number;
  end_s: number;
  emotion: string;
  confidence: number;
  peak: number;
  frames: number;
}
export interface Person {
  track_id: number;
  frames: number;
  start_s: number;
  end_s: number;
  episodes: Omit<Episode, "track_id">[];
}
export function episodes(results: Result[], options?: { gap?: number }): Episode[];
export function people(results: Result[], options?: { gap?: number }): Person[];

export interface Marker { start: number; end: number | null; label: string }
export type Row = Record<string, string | number | boolean | null>;
export interface TableOptions {
  labels?: string[];
  gap?: number;
  byPerson?: boolean;
  corrected?: boolean;
}
export function markerTable(results: Result[], markers: Marker[], options?: TableOptions): Row[];
export function readMarkers(text: string): (Marker & { end: number })[];
export function writeMarkers(markers: Marker[], end: number): string;
export function parseTime(text: string): number;
export function formatTime(seconds: number, digits?: number): string;

export interface Means { valence: number | null; scores: Scores; shares: Scores }
export interface PersonSummary extends Means {
  track_id: number;
  start_s: number;
  end_s: number;
  seconds: number;
  frames: number;
  /** Share of the person's frames that are uncertain. */
  uncertain: number;
  corrected?: Means;
}
export function summary(
  results: Result[], options?: { labels?: string[]; gap?: number },
): PersonSummary[];
export function compare(
  sessions: { name: string; results: Result[]; baseline?: Baseline | null }[],
  options?: { labels?: string[]; gap?: number },
): Row[];

export function round6(value: number): number;
export function scoreColumns(labels: readonly string[]): Record<string, string>;
export function tableColumns(
  labels?: readonly string[], columns?: { smoothed?: boolean; corrected?: boolean },
): string[];
export function resultRows(result: Result, labels?: readonly string[]): Row[];
export function toCsv(
  results: Result[], options?: { labels?: string[]; smoothed?: boolean; corrected?: boolean },
): string;
export function markersToCsv(rows: Row[], source: string): string;
export function comparisonToCsv(rows: Row[]): string;

// ---------------------------------------------------------------- saved sessions
export const SESSION_SCHEMA: "mien-session/1";
export interface Session {
  name: string;
  /** ISO 8601; empty for the JSON of `mien predict VIDEO`. */
  created: string;
  /** Labels that the scores follow: "people", "fer2013" or "own". */
  labels: string;
  model: Result["model"] | null;
  markers: Marker[];
  baseline: Baseline | null;
  results: Result[];
}
export function toJson(session: Session): string;
/** Throws an Error with a one-line message if the file is not a session, or damaged. */
export function fromJson(text: string): Session;
