/** Types of mien-web. Boxes are pixels of the upright image, scores 0 to 1. */

import type { Face, Result, Scores } from "./analysis.js";

export type { Face, Result, Scores };

/** The default seven in alphabetical order, which is the order of scores everywhere. */
export const EMOTIONS: readonly string[];
/** The emotions that `valence` weighs against happy. */
export const UNPLEASANT: readonly string[];
/** Colour of each emotion, as "#rrggbb". */
export const PALETTE: Readonly<Record<string, string>>;
/** Pleasantness of an expression, -1 to 1; null if the model lacks one of the classes for it. */
export function valence(scores: Scores): number | null;

export type Labels = "people" | "fer2013" | "own";
export type DetectorName = "libface" | "none";
export type Align = "auto" | "on" | "off";

export type ImageInput =
  | Blob
  | File
  | ImageBitmap
  | ImageData
  | HTMLImageElement
  | HTMLCanvasElement
  | OffscreenCanvas
  | HTMLVideoElement
  | VideoFrame;

export interface LoadOptions {
  /** URL of the folder with `manifest.json` and `<labels>.onnx`; by default `models/mien-nano/` next to the library. */
  model?: string | URL;
  /** Labels that the scores follow; "people" by default if the model has that reading. */
  labels?: Labels;
  /** "none": images are face crops. */
  detector?: DetectorName;
  /** URL of `libface.onnx`; by default next to the model's folder. */
  detectorFile?: string | URL;
  /** URL of the folder with onnxruntime-web's files; by default `runtime/` next to the library. */
  runtime?: string | URL;
  /** More than one thread needs a cross-origin isolated page. */
  threads?: number;
  /** Receives the bytes loaded; `total` is 0 if unknown. */
  onProgress?: (state: { loaded: number; total: number }) => void;
}

export interface AnalyzeOptions {
  /** Name of the image in the result; by default that of a File. */
  source?: string;
  /** Ignore faces whose box has a smaller side than this, in pixels. */
  minFace?: number;
  /** Read only the largest faces, up to this number. */
  maxFaces?: number | null;
  /** Level the eyes of faces that lean far ("auto"), of all faces, or of none. */
  align?: Align;
  /** Cancels the call, which rejects with the signal's reason. */
  signal?: AbortSignal;
}

export interface ExplainOptions {
  /** Emotion to explain; by default the most likely one. */
  emotion?: string;
  /** The same as for `analyze`. */
  align?: Align;
  signal?: AbortSignal;
}

export interface Explanation {
  size: 48;
  /** 48×48, row by row, 0 to 1, relative to `peak`. */
  values: Float32Array;
  emotion: string;
  /** Largest mean drop of the score when a region is covered. */
  peak: number;
  /** Area of the map in pixels of the image: centre, sides, and clockwise rotation in degrees. */
  square: { x: number; y: number; w: number; h: number; turn: number };
}

/** Face detection and emotion recognition in a worker. Calls are answered in order. */
export interface Recognizer {
  readonly model: Result["model"];
  readonly labels: Labels;
  readonly emotions: string[];
  readonly detector: DetectorName;
  readonly threads: number;
  /** An image that cannot be read has the status "unreadable" and an `error`; invalid options reject. */
  analyze(image: ImageInput, options?: AnalyzeOptions): Promise<Result>;
  explain(image: ImageInput, face: Face, options?: ExplainOptions): Promise<Explanation>;
  /** Stops the worker; pending calls reject. */
  close(): void;
}

/** Rejects with a one-line Error if something cannot be loaded. */
export function loadRecognizer(options?: LoadOptions): Promise<Recognizer>;
