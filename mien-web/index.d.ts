/** Types of mien-web. Boxes are pixels of the upright image, scores 0 to 1. */

import type { Face, Result, Scores } from "./analysis.js";

export type { Face, Result, Scores };

/** The usual seven, in the order of the scores everywhere. */
export const EMOTIONS: readonly string[];
/** The emotions that `valence` sets against happy. */
export const UNPLEASANT: readonly string[];
/** A colour for each emotion, as "#rrggbb". */
export const PALETTE: Readonly<Record<string, string>>;
/** How pleasant an expression is, -1 to 1; null where a model lacks one of the classes for it. */
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
  /** URL of the model's folder, with `manifest.json` and `<labels>.onnx`; `models/mien-nano/` beside the library unless given. */
  model?: string | URL;
  /** Whose labels the scores follow; "people" unless given, where the model has that reading. */
  labels?: Labels;
  /** "none": images are face crops. */
  detector?: DetectorName;
  /** URL of `libface.onnx`; beside the model's folder unless given. */
  detectorFile?: string | URL;
  /** URL of the folder with onnxruntime-web's files; `runtime/` beside the library unless given. */
  runtime?: string | URL;
  /** Threads of one call; more than one needs a page that is cross-origin isolated. */
  threads?: number;
  /** Told how many bytes of the networks are there; total is 0 where the server does not say. */
  onProgress?: (state: { loaded: number; total: number }) => void;
}

export interface AnalyzeOptions {
  /** The image's name in its result; that of a File unless given. */
  source?: string;
  /** Leave out faces whose box has a smaller side than this, in pixels. */
  minFace?: number;
  /** Read only so many faces, the largest. */
  maxFaces?: number | null;
  /** Level the eyes: of faces that lean far ("auto"), of all, or of none. */
  align?: Align;
  /** Gives the call up: it rejects with the signal's reason. */
  signal?: AbortSignal;
}

export interface ExplainOptions {
  /** The emotion to explain; the face's likeliest unless given. */
  emotion?: string;
  /** As it was for `analyze`. */
  align?: Align;
  signal?: AbortSignal;
}

export interface Explanation {
  size: 48;
  /** 48 x 48, row by row, 0 to 1; 1 is where most speaks for the emotion. */
  values: Float32Array;
  emotion: string;
  /** The score that is lost, on average, where that place is covered. */
  peak: number;
  /** What the map lies over, in pixels of the image: its centre, its sides, and by how many degrees it is turned, clockwise. */
  square: { x: number; y: number; w: number; h: number; turn: number };
}

/** Finds faces and reads their emotions, in a worker; calls are answered in their order. */
export interface Recognizer {
  readonly model: Result["model"];
  readonly labels: Labels;
  readonly emotions: string[];
  readonly detector: DetectorName;
  readonly threads: number;
  /** An image that cannot be read has the status "unreadable" and an `error`; wrong options reject. */
  analyze(image: ImageInput, options?: AnalyzeOptions): Promise<Result>;
  explain(image: ImageInput, face: Face, options?: ExplainOptions): Promise<Explanation>;
  /** Ends the worker; calls that have not been answered reject. */
  close(): void;
}

/** Rejects with an Error of one line where something cannot be loaded. */
export function loadRecognizer(options?: LoadOptions): Promise<Recognizer>;
