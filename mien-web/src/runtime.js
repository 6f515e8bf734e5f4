/** ONNX Runtime's WebAssembly build, and the files of a model. Runs in the worker. */

const ENTRY = "ort.wasm.min.mjs";

/**
 * Load onnxruntime-web.
 *
 * @param {string} folder URL of its files, with a slash at the end
 * @param {number} threads for one call; more than one needs a page that is cross-origin isolated
 * @returns {Promise<(content: Uint8Array) => Promise<Network>>} opens a network
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
    throw new Error(`cannot load ${entry} (${oneLine(error)}): expected the folder of onnxruntime-web's files as runtime`);
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
 * Fetch a file.
 *
 * @param {string} url
 * @param {(part: number, total: number) => void} onBytes told of each part, and of the whole, 0 if
 *   that is not known
 * @returns {Promise<Uint8Array>}
 */
export async function fetchFile(url, onBytes = () => {}) {
  let reply;
  try {
    reply = await fetch(url);
    if (!reply.ok) throw new Error(`status ${reply.status}`);
    const isPacked = reply.headers.get("Content-Encoding");
    const total = isPacked ? 0 : Number(reply.headers.get("Content-Length")) || 0;
    const parts = [];
    onBytes(0, total);
    for (const reader = reply.body.getReader(); ; ) {
      const { done, value } = await reader.read();
      if (done) break;
      parts.push(value);
      onBytes(value.length, total);
    }
    return new Uint8Array(await new Blob(parts).arrayBuffer());
  } catch (error) {
    throw new Error(`cannot fetch ${url} (${oneLine(error)}): expected a file of mien's there`);
  }
}

/** What an error says, in one line. */
export function oneLine(error) {
  return String(error?.message ?? error).replace(/\s+/g, " ").trim() || "unknown error";
}
