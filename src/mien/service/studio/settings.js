/**
 * Settings of the page. They are kept in this browser's local storage; pictures, results and tokens never are.
 *
 * @typedef {object} Settings
 * @property {"system"|"light"|"dark"} theme
 * @property {"browser"|"server"} side where pictures are read
 * @property {"mien-nano"|"mien-b0"} model of the browser's side; a server reads with its own
 * @property {"people"|"fer2013"} labels of the browser's side
 * @property {number} minFace pixels of the smallest face that is read; 0 for any
 * @property {boolean} charts whether saved pictures have a chart of the scores beside each face
 */

const KEY = "mien-studio"; // theme.js reads it, too

/** @type {Readonly<Settings>} */
export const DEFAULTS = Object.freeze({
  theme: "system",
  side: "browser",
  model: "mien-nano",
  labels: "people",
  minFace: 0,
  charts: true,
});

export const MIN_FACE = Object.freeze({ least: 0, most: 400 });

const CHOICES = {
  theme: ["system", "light", "dark"],
  side: ["browser", "server"],
  model: ["mien-nano", "mien-b0"],
  labels: ["people", "fer2013"],
  charts: [true, false],
};

/** Whether a value may be that of a setting. */
function isValid(name, value) {
  if (name === "minFace") return Number.isInteger(value) && value >= MIN_FACE.least && value <= MIN_FACE.most;
  return CHOICES[name]?.includes(value) ?? false;
}

function stored() {
  try {
    const found = JSON.parse(localStorage.getItem(KEY) ?? "{}");
    return Object.fromEntries(Object.entries(found ?? {}).filter(([name, value]) => isValid(name, value)));
  } catch {
    return {};
  }
}

/**
 * @returns {{get(): Readonly<Settings>, set(patch: Partial<Settings>): void,
 *   subscribe(callback: (settings: Readonly<Settings>, changed: string[]) => void): () => void}}
 */
export function createSettings() {
  let current = Object.freeze({ ...DEFAULTS, ...stored() });
  const callbacks = new Set();
  return {
    get: () => current,
    set(patch) {
      const changed = Object.keys(patch).filter((name) => isValid(name, patch[name]) && patch[name] !== current[name]);
      if (!changed.length) return;
      current = Object.freeze({ ...current, ...Object.fromEntries(changed.map((name) => [name, patch[name]])) });
      try {
        localStorage.setItem(KEY, JSON.stringify(current));
      } catch {
        // Storage may be blocked: the settings hold until the page is closed.
      }
      for (const callback of callbacks) callback(current, changed);
    },
    subscribe(callback) {
      callbacks.add(callback);
      return () => callbacks.delete(callback);
    },
  };
}
