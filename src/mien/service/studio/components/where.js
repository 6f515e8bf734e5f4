/** The line that says where pictures are read. */

import { HOST } from "../engine.js";
import { format } from "../strings.js";
import { fill, h } from "./dom.js";
import { icon } from "./icons.js";

/**
 * A line that follows the settings for as long as it is on the page.
 *
 * @param {ReturnType<import("../settings.js").createSettings>} settings
 * @param {{privateBrowser: string, privateServer: string}} words
 * @param {"browser"|"server"|null} [always] the side, where the settings do not decide it
 */
export function whereRead(settings, words, always = null) {
  const element = h("p.where");
  const update = () => {
    const onServer = (always ?? settings.get().side) === "server";
    const text = onServer ? format(words.privateServer, { host: HOST }) : words.privateBrowser;
    fill(element, icon(onServer ? "server" : "lock"), h("span", null, text));
  };
  const stop = settings.subscribe(() => (element.isConnected ? update() : stop()));
  update();
  return element;
}
