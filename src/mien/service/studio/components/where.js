/** Line of text that says where pictures are analysed. */

import { HOST } from "../engine.js";
import { format } from "../strings.js";
import { fill, h } from "./dom.js";
import { icon } from "./icons.js";

/**
 * Create the line; it follows the settings while it is on the page.
 *
 * @param {ReturnType<import("../settings.js").createSettings>} settings
 * @param {{privateBrowser: string, privateServer: string}} words
 * @param {"browser"|"server"|null} [fixedSide] if the settings do not apply
 */
export function createWhereLine(settings, words, fixedSide = null) {
  const element = h("p.where.hint");
  const update = () => {
    const onServer = (fixedSide ?? settings.get().side) === "server";
    const text = onServer ? format(words.privateServer, { host: HOST }) : words.privateBrowser;
    fill(element, icon(onServer ? "server" : "lock"), h("span", null, text));
  };
  const unsubscribe = settings.subscribe(() => (element.isConnected ? update() : unsubscribe()));
  update();
  return element;
}
