/** ONNX Runtime's WebAssembly build and downloads of model files. Runs in the worker. */

const ENTRY = "ort.wasm.min.mjs";

/**
 * Load onnxruntime-web.
 *
 * @param {string} folder URL of its files, with a trailing slash
 * @param {number} threads more than one needs a cross-origin isolated page
 * @returns {Promise<(content: Uint8Array) => Promise<Network>>} function that creates a network from an ONNX file
 *
 * @typedef {object} Network
 * @property {(inputs: object, outputs?: string[]) => Promise<Record<string, object>>} run
 * @property {(type: string, data: ArrayLike<number>, shape: number[]) => object} tensor
 * @property {() => Promise<void>} release
 */
export async function loadRuntime(folder, threads) {
  const entry = new URL(ENTRY, folder).href;
  let ort;
  try {
    ort = await import(/* webpackIgnore: true */ /* @vite-ignore */ entry);
  } catch (error) {
    throw new Error(`cannot load ${entry} (${oneLine(error)}): expected runtime to be the folder of onnxruntime-web's files`);
  }
  const { wasm } = ort.env;
  [wasm.wasmPaths, wasm.numThreads, wasm.proxy] = [folder, threads, false];
  ort.env.logLevel = "error";
  return async (content) => {
    const session = await ort.InferenceSession.create(content, {
      executionProviders: ["wasm"],
      graphOptimizationLevel: "all",
      logSeverityLevel: 3,
    });
    return {
      run: (inputs, outputs) => session.run(inputs, outputs ?? session.outputNames),
      tensor: (type, data, shape) => new ort.Tensor(type, data, shape),
      release: () => session.release(),
    };
  };
}

/**
 * Download a file.
 *
 * @param {string} url
 * @param {(bytes: number, total: number) => void} onBytes called per chunk with its size and the total
 *   size, 0 if unknown
 * @returns {Promise<Uint8Array>}
 * @throws {Error} with a one-line message
 */
export async function fetchFile(url, onBytes = () => {}) {
  let reply;
  try {
    reply = await fetch(url);
    if (!reply.ok) throw new Error(`status ${reply.status}`);
    const isCompressed = reply.headers.get("Content-Encoding");
    const total = isCompressed ? 0 : Number(reply.headers.get("Content-Length")) || 0;
    const chunks = [];
    onBytes(0, total);
    for (const reader = reply.body.getReader(); ; ) {
      const { done, value } = await reader.read();
      if (done) break;
      chunks.push(value);
      onBytes(value.length, total);
    }
    return new Uint8Array(await new Blob(chunks).arrayBuffer());
  } catch (error) {
    throw new Error(`cannot fetch ${url} (${oneLine(error)}): expected a file of mien there`);
  }
}

/** Message of an error in one line. */
export function oneLine(error) {
  return String(error?.message ?? error).replace(/\s+/g, " ").trim() || "unknown error";
}
