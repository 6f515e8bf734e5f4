/**
 * Settings of the page, kept in local storage. Pictures, results and tokens are never stored.
 *
 * @typedef {object} Settings
 * @property {"system"|"light"|"dark"} theme
 * @property {"browser"|"server"} side where pictures are analysed
 * @property {"mien-nano"|"mien-b0"} model in the browser; a server uses its own
 * @property {"people"|"fer2013"} labels in the browser
 * @property {number} minFace smallest face to read in pixels; 0 for any
 * @property {boolean} charts whether saved pictures have a chart of the scores next to each face
 */

const KEY = "mien-studio"; // also in theme.js

/** @type {Readonly<Settings>} */
export const DEFAULTS = Object.freeze({
  theme: "system",
  side: "browser",
  model: "mien-nano",
  labels: "people",
  minFace: 0,
  charts: true,
});

export const MIN_FACE = Object.freeze({ min: 0, max: 400 });

const CHOICES = {
  theme: ["system", "light", "dark"],
  side: ["browser", "server"],
  model: ["mien-nano", "mien-b0"],
  labels: ["people", "fer2013"],
  charts: [true, false],
};

function isValid(name, value) {
  if (name === "minFace") return Number.isInteger(value) && value >= MIN_FACE.min && value <= MIN_FACE.max;
  return CHOICES[name]?.includes(value) ?? false;
}

function stored() {
  try {
    const saved = JSON.parse(localStorage.getItem(KEY) ?? "{}");
    return Object.fromEntries(Object.entries(saved ?? {}).filter(([name, value]) => isValid(name, value)));
  } catch {
    return {};
  }
}

/**
 * Create the settings.
 *
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
        // Storage may be blocked; the settings then last until the page is closed.
      }
      for (const callback of callbacks) callback(current, changed);
    },
    subscribe(callback) {
      callbacks.add(callback);
      return () => callbacks.delete(callback);
    },
  };
}
