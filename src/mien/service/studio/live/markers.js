/**
 * Panel to mark events with keys: the first press starts an event, the second ends it.
 *
 * @typedef {{start: number, end: number, label: string}} Marker times in seconds
 */

import { formatTime } from "../../mien-web/analysis/index.js";
import { fill, h } from "../components/dom.js";
import { icon } from "../components/icons.js";
import { format } from "../strings.js";

const MAX_KEYS = 9;
const INITIAL_KEYS = 3;

/**
 * Create the panel.
 *
 * @param {object} options
 * @param {object} options.strings
 * @param {() => number|null} options.now current time in seconds, or null
 * @param {(markers: Marker[]) => void} options.onChange
 * @param {(text: string) => void} options.announce
 * @param {(seconds: number) => void} [options.onSeek] if given, start times are buttons that seek
 * @param {boolean} [options.hasKeys] whether events can be marked
 * @param {Node[]} [options.tools] shown next to the heading
 */
export function createMarkers({ strings, now, onChange, announce, onSeek, hasKeys = true, tools = [] }) {
  const text = strings.markers;
  const names = Array.from({ length: INITIAL_KEYS }, (_, index) => format(text.name, { number: index + 1 }));
  const running = new Map(); // index of the key → start in seconds
  let markers = [];

  const keys = h("ul.marker-keys");
  const rows = h("tbody");
  const heads = [text.label, text.start, text.end].map((name) => h("th", { scope: "col" }, name));
  const table = h("table.table.marker-table", null, h("caption.visually-hidden", null, text.table), h("thead", null, h("tr", null, heads, h("td"))), rows);
  const list = h("div.scroll", { hidden: true }, table);
  const none = h("p.hint", null, text.none);
  const more = h("button.button.quiet", { type: "button", onclick: addKey }, icon("plus"), text.addKey);
  const element = h(
    "section.panel.markers",
    null,
    h("header.panel-head.row", null, h("h2", null, text.title), h("div.row", null, tools)),
    hasKeys && [h("p.hint", null, text.hint), keys, more],
    !hasKeys && none,
    list,
  );

  function press(index) {
    const time = now();
    if (time === null || index >= names.length) return false;
    const isOn = running.has(index);
    if (isOn) end(index, time);
    else running.set(index, time);
    announce(format(isOn ? text.ended : text.began, { label: names[index] }));
    drawKey(index);
    changed();
    return true;
  }

  function end(index, time) {
    const start = running.get(index);
    running.delete(index);
    if (time > start) markers.push({ start, end: time, label: names[index] });
  }

  function changed() {
    markers.sort((a, b) => a.start - b.start);
    list.hidden = markers.length === 0;
    none.hidden = !list.hidden;
    fill(rows, markers.map(tableRow));
    onChange([...markers]);
  }

  // ---------------------------------------------------------------- keys
  function addKey() {
    names.push(format(text.name, { number: names.length + 1 }));
    drawKeys();
    keys.querySelector("li:last-child input").select();
  }

  function drawKeys() {
    fill(keys, names.map(keyRow));
    names.forEach((_, index) => drawKey(index));
    more.hidden = names.length >= MAX_KEYS;
  }

  function keyRow(name, index) {
    const rename = ({ target }) => {
      names[index] = target.value.trim() || format(text.name, { number: index + 1 });
      drawKey(index);
    };
    return h(
      "li",
      null,
      h("button.button.marker-press", { type: "button", onclick: () => press(index) }, h("kbd", null, String(index + 1)), h("span.visually-hidden"), icon("flag")),
      h("input.input", { type: "text", value: name, maxLength: 60, "aria-label": format(text.nameOf, { number: index + 1 }), oninput: rename }),
    );
  }

  function drawKey(index) {
    const button = keys.children[index].querySelector("button");
    const isOn = running.has(index);
    button.setAttribute("aria-pressed", String(isOn));
    button.querySelector(".visually-hidden").textContent = format(isOn ? text.stop : text.begin, { label: names[index] });
    button.querySelector(".icon").replaceWith(icon(isOn ? "stop" : "flag"));
  }

  // ---------------------------------------------------------------- list
  function tableRow(marker) {
    const start = formatTime(marker.start);
    const label = marker.label || text.noName;
    const remove = () => {
      markers = markers.filter((other) => other !== marker);
      changed();
      (rows.querySelector("button") ?? more).focus();
    };
    return h(
      "tr",
      null,
      h("th", { scope: "row" }, label),
      h("td", null, onSeek ? h("button.link", { type: "button", "aria-label": format(text.goTo, { start }), onclick: () => onSeek(marker.start) }, start) : start),
      h("td", null, marker.end === null ? "–" : formatTime(marker.end)),
      h("td", null, h("button.button.quiet.round", { type: "button", "aria-label": format(text.remove, { label, start }), onclick: remove }, icon("trash"))),
    );
  }

  drawKeys();
  return {
    element,
    /** Handle a key: 1 to 9, or m for the first. */
    key: (key) => (key === "m" ? press(0) : /^[1-9]$/.test(key) ? press(Number(key) - 1) : false),
    /** All markers up to a time, including running ones. */
    until(time) {
      const open = [...running].map(([index, start]) => ({ start, end: time, label: names[index] }));
      return [...markers, ...open].filter((marker) => marker.end === null || marker.end > marker.start);
    },
    /** Replace all markers. */
    set(list) {
      markers = [...list];
      running.clear();
      drawKeys();
      changed();
    },
  };
}

/** Clip markers to a span; times become relative to its start. */
export function markersWithin(markers, start, end) {
  return markers
    .map((marker) => ({ ...marker, start: Math.max(marker.start, start) - start, end: Math.min(marker.end, end) - start }))
    .filter((marker) => marker.end > marker.start);
}
