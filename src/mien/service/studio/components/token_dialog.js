/** Dialog for the access token of a server. The token is never stored. */

import { HOST } from "../engine.js";
import { format, strings } from "../strings.js";
import { openDialog } from "./dialog.js";
import { h, newId } from "./dom.js";

let pending = null;

/**
 * Ask the user for a token.
 *
 * @param {boolean} wrong whether the previous token was rejected
 * @returns {Promise<string|null>} null if cancelled
 */
export function askToken(wrong) {
  pending ??= openTokenDialog(wrong).finally(() => (pending = null)); // several requests may need it at once
  return pending;
}

function openTokenDialog(wrong) {
  const words = strings.token;
  const id = newId("token");
  return new Promise((resolve) => {
    let token = null;
    const input = h("input.input", { id, type: "password", autocomplete: "off", required: true, spellcheck: false });
    const form = h(
      "form.stack",
      {
        onSubmit: (event) => {
          event.preventDefault();
          token = input.value.trim() || null;
          dialog.close();
        },
      },
      h("p", null, format(words.text, { host: HOST })),
      wrong && h("p.chip.error", { role: "alert" }, words.wrong),
      h("div.field", null, h("label", { htmlFor: id }, words.label), input),
      h(
        "div.row",
        null,
        h("button.button.primary", { type: "submit" }, words.use),
        h("button.button.quiet", { type: "button", onClick: () => dialog.close() }, words.cancel),
      ),
    );
    const dialog = openDialog({ title: words.title, content: form, onClose: () => resolve(token) });
    input.focus();
  });
}
