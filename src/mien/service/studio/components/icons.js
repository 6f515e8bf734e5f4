/** Icons (strokes on a 24×24 grid) and the logo. All are decorative; labels are separate. */

import { h, svg } from "./dom.js";

const PATHS = {
  picture: "M4 6.5A2.5 2.5 0 0 1 6.5 4h11A2.5 2.5 0 0 1 20 6.5v11a2.5 2.5 0 0 1-2.5 2.5h-11A2.5 2.5 0 0 1 4 17.5zM4.5 17l4.2-4.6a1.5 1.5 0 0 1 2.2 0L17 19M14 14.5l1.4-1.4a1.5 1.5 0 0 1 2.1 0L20 15.6M15.5 8.5h.01",
  webcam: "M12 16a5.5 5.5 0 1 0 0-11 5.5 5.5 0 0 0 0 11zM12 12.5a2 2 0 1 0 0-4 2 2 0 0 0 0 4zM12 16v2.5M8 20.5h8",
  video: "M4 7.5A2.5 2.5 0 0 1 6.5 5h7A2.5 2.5 0 0 1 16 7.5v9a2.5 2.5 0 0 1-2.5 2.5h-7A2.5 2.5 0 0 1 4 16.5zM16 10.5l4-2.5v8l-4-2.5",
  compare: "M5.5 4.5h3A1.5 1.5 0 0 1 10 6v12a1.5 1.5 0 0 1-1.5 1.5h-3A1.5 1.5 0 0 1 4 18V6a1.5 1.5 0 0 1 1.5-1.5zM15.5 4.5h3A1.5 1.5 0 0 1 20 6v12a1.5 1.5 0 0 1-1.5 1.5h-3A1.5 1.5 0 0 1 14 18V6a1.5 1.5 0 0 1 1.5-1.5z",
  upload: "M12 15.5V4.5M7.5 9 12 4.5 16.5 9M4.5 15.5v2a2.5 2.5 0 0 0 2.5 2.5h10a2.5 2.5 0 0 0 2.5-2.5v-2",
  download: "M12 4.5v11M7.5 11l4.5 4.5 4.5-4.5M4.5 15.5v2a2.5 2.5 0 0 0 2.5 2.5h10a2.5 2.5 0 0 0 2.5-2.5v-2",
  plus: "M12 5v14M5 12h14",
  minus: "M5 12h14",
  fit: "M4.5 9V6.5a2 2 0 0 1 2-2H9M15 4.5h2.5a2 2 0 0 1 2 2V9M19.5 15v2.5a2 2 0 0 1-2 2H15M9 19.5H6.5a2 2 0 0 1-2-2V15",
  back: "M19 12H5M11 6l-6 6 6 6",
  previous: "M14.5 6l-6 6 6 6",
  next: "M9.5 6l6 6-6 6",
  down: "M6 9.5l6 6 6-6",
  close: "M6 6l12 12M18 6 6 18",
  check: "M5 12.5l4.5 4.5L19 7.5",
  info: "M12 20.5a8.5 8.5 0 1 0 0-17 8.5 8.5 0 0 0 0 17zM12 11v5M12 8h.01",
  warn: "M12 4.5 3.7 18.7a.9.9 0 0 0 .8 1.3h15a.9.9 0 0 0 .8-1.3zM12 10v4M12 17h.01",
  question: "M12 20.5a8.5 8.5 0 1 0 0-17 8.5 8.5 0 0 0 0 17zM9.6 9.6a2.5 2.5 0 1 1 3.5 2.3c-.7.3-1.1.9-1.1 1.6v.3M12 16.5h.01",
  sliders: "M4 7h9M17 7h3M15 9a2 2 0 1 0 0-4 2 2 0 0 0 0 4zM4 17h3M11 17h9M9 19a2 2 0 1 0 0-4 2 2 0 0 0 0 4z",
  sun: "M12 16a4 4 0 1 0 0-8 4 4 0 0 0 0 8zM12 3v1.5M12 19.5V21M3 12h1.5M19.5 12H21M5.6 5.6l1.1 1.1M17.3 17.3l1.1 1.1M5.6 18.4l1.1-1.1M17.3 6.7l1.1-1.1",
  moon: "M19.5 14.2A8 8 0 0 1 9.8 4.5a8 8 0 1 0 9.7 9.7z",
  system: "M5 4.5h14A1.5 1.5 0 0 1 20.5 6v9a1.5 1.5 0 0 1-1.5 1.5H5A1.5 1.5 0 0 1 3.5 15V6A1.5 1.5 0 0 1 5 4.5zM9 20h6M12 16.5V20",
  lock: "M7 10.5h10a1.5 1.5 0 0 1 1.5 1.5v6.5A1.5 1.5 0 0 1 17 20H7a1.5 1.5 0 0 1-1.5-1.5V12A1.5 1.5 0 0 1 7 10.5zM8.5 10.5V8a3.5 3.5 0 0 1 7 0v2.5",
  server: "M5.5 4.5h13A1.5 1.5 0 0 1 20 6v4a1.5 1.5 0 0 1-1.5 1.5h-13A1.5 1.5 0 0 1 4 10V6a1.5 1.5 0 0 1 1.5-1.5zM5.5 11.5h13A1.5 1.5 0 0 1 20 13v5a1.5 1.5 0 0 1-1.5 1.5h-13A1.5 1.5 0 0 1 4 18v-5a1.5 1.5 0 0 1 1.5-1.5zM8 8h.01M8 15.5h.01",
  face: "M12 20.5a8.5 8.5 0 1 0 0-17 8.5 8.5 0 0 0 0 17zM9 10h.01M15 10h.01M8.8 14.5c1.8 1.6 4.6 1.6 6.4 0",
  heat: "M12 20.5c3.3 0 5.5-2.3 5.5-5.4 0-3.6-2.7-4.9-3.4-8.1-.3-1.2-.2-2.3 0-3.5-3 1-5 3.5-5 6.4 0 .9.2 1.6.4 2.3-.9-.3-1.6-1-1.9-2-.7 1.1-1.1 2.6-1.1 4.6 0 3.3 2.2 5.7 5.5 5.7z",
  trash: "M5 7h14M10 11v5.5M14 11v5.5M6.5 7l.7 11a2 2 0 0 0 2 1.9h5.6a2 2 0 0 0 2-1.9l.7-11M9.5 7V5.5a1 1 0 0 1 1-1h3a1 1 0 0 1 1 1V7",
  play: "M8 5.5v13l10.5-6.5z",
  pause: "M8.5 5.5v13M15.5 5.5v13",
  stop: "M7.5 6.5h9a1 1 0 0 1 1 1v9a1 1 0 0 1-1 1h-9a1 1 0 0 1-1-1v-9a1 1 0 0 1 1-1z",
  record: "M12 18a6 6 0 1 0 0-12 6 6 0 0 0 0 12z",
  flag: "M6 20.5V4.5M6 5.5c4-2 7 2 12 0v8c-5 2-8-2-12 0",
  wait: "M12 20.5a8.5 8.5 0 1 0 0-17 8.5 8.5 0 0 0 0 17zM12 7.5V12l3 2",
  offline: "M4 4.5l16 15M8.6 8A6.8 6.8 0 0 0 5 10.4M2.5 7.8A11.5 11.5 0 0 1 6 5.6M10 4.4a11.6 11.6 0 0 1 11.5 3.4M13.6 8.2A7 7 0 0 1 19 10.6M8.6 14a4.4 4.4 0 0 1 4.6-1M12 18.5h.01",
  table: "M5.5 4.5h13A1.5 1.5 0 0 1 20 6v12a1.5 1.5 0 0 1-1.5 1.5h-13A1.5 1.5 0 0 1 4 18V6a1.5 1.5 0 0 1 1.5-1.5zM4 9.5h16M4 14.5h16M9.5 9.5v10",
  code: "M9 7.5 4.5 12 9 16.5M15 7.5l4.5 4.5-4.5 4.5",
  mirror: "M12 4.5v15M9 8l-4.5 8H9zM15 8l4.5 8H15z",
};

/** Create an icon by its name in `PATHS`. */
export function icon(name, className = "") {
  const path = PATHS[name];
  if (!path) throw new TypeError(`unknown icon ${name}: expected one of ${Object.keys(PATHS).join(", ")}`);
  return svg("svg", { class: `icon ${className}`.trim(), viewBox: "0 0 24 24", "aria-hidden": "true", focusable: "false" }, svg("path", { d: path }));
}

/** Create a round button with an icon and a tooltip. */
export function iconButton(name, label, onClick, props = {}) {
  return h("button.button.quiet.round", { type: "button", "aria-label": label, title: label, onClick, ...props }, icon(name));
}

/** Create mien's logo: a calm face in a ring of the emotions' colours. */
export function mark(palette, className = "mark") {
  const colours = Object.values(palette);
  const gap = 0.16; // between arcs, relative to an arc
  const arcs = colours.map((colour, index) => {
    const [from, to] = [index + gap, index + 1 - gap].map((arc) => (arc / colours.length - 0.25) * 2 * Math.PI);
    const point = (angle) => `${(16 + 13.5 * Math.cos(angle)).toFixed(2)} ${(16 + 13.5 * Math.sin(angle)).toFixed(2)}`;
    return svg("path", { d: `M${point(from)}A13.5 13.5 0 0 1 ${point(to)}`, stroke: colour });
  });
  return svg(
    "svg",
    { class: className, viewBox: "0 0 32 32", "aria-hidden": "true", focusable: "false" },
    ...arcs,
    svg("path", { d: "M12 13.2v1.6M20 13.2v1.6M11.5 19.8c2.6 1.7 6.4 1.7 9 0", stroke: "currentColor" }),
  );
}
